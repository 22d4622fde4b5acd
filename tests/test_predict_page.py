# SPDX-License-Identifier: Apache-2.0
"""docs/predict.md: its Python runs, and its commands have these options."""

import importlib
import re
import shlex
from pathlib import Path

from tests.trained_runs import make_run, write_pictures

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "predict.md").read_text(encoding="utf-8")
RUNS = {"segmentation": "rr", "detection": "masks", "classification": "images"}


def test_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("output").mkdir()
    for name, run in RUNS.items():
        make_run(run, tmp_path / run).rename(tmp_path / "output" / name)
    write_pictures(tmp_path, {"street.png": (32, 48)})
    values = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    for block in blocks:
        exec(block, values)
    assert len(blocks) == 2 and values["found"].labels.shape == (32, 48)
    assert len(values["instances"]) and values["logits"].shape == (3, 32, 48)
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_commands():
    lines = re.findall(r"^longtail (.*)$", TEXT, re.MULTILINE)
    assert len(lines) >= 9
    for line in lines:
        name, *arguments = shlex.split(line)
        module = importlib.import_module(f"longtail.commands.{name.replace('-', '_')}")
        parser = module.build_parser()
        parser.parse_intermixed_args(arguments)
