# SPDX-License-Identifier: Apache-2.0
"""docs/extending.md: its examples work, and what its tables name is there."""

import dataclasses
import json
import math
import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import detectron2.modeling
import pytest

from longtail.config import Project, get_cfg, get_value

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
NAMES = set(re.findall(r"`([\w.]+)(?:\(.*?\))?`", TEXT))

# After the examples, in a process of its own: what they register stays there.
PROGRAM = """
import json, torch
from longtail.config import load_config
from longtail.data.samplers import build_train_sampler
from longtail.engine.deployment.post_hoc import POST_HOC_REGISTRY
from longtail.engine.methods import all_methods
from longtail.losses import IMAGES, build_loss

keys = ["MODEL.CLASSIFIER.LOSS", "smoothed", "MODEL.CLASSIFIER.NUM_CLASSES", 2]
cfg = load_config("", [*keys, "DATALOADER.SAMPLER_TRAIN", "ReversedSampler"])
loss = build_loss(cfg, IMAGES)(torch.tensor([[3.0, 1.0]]).log(), torch.tensor([0]))
sampler = build_train_sampler(cfg, [{}, {}, {}], seed=0)
stream = iter(sampler)
weight, bias = POST_HOC_REGISTRY.get("without_bias")(cfg, None, None)(torch.ones(1), torch.ones(1))
own = {"smoothed", "ReversedSampler", "without_bias"}
print(json.dumps({
    "loss": loss.item(),
    "drawn": [next(stream) for _ in range(4)],
    "changed": [weight.item(), bias.item()],
    "listed": sorted([m.task, m.kind, m.what] for m in all_methods() if m.name in own),
}))
"""


def test_examples(tmp_path):
    """Probabilities 3/4 and 1/4, labels 0.95 and 0.05."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, PROGRAM])],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    expected = -0.95 * math.log(0.75) - 0.05 * math.log(0.25)
    assert found["loss"] == pytest.approx(expected, abs=1e-6)
    assert found["drawn"] == [2, 1, 0, 2] and found["changed"] == [1, 0]
    sampler, loss = "All images, the last one first", "Cross-entropy with smoothed labels"
    post_hoc = "The classifier without its bias"
    assert found["listed"] == [
        *(["boxes", "loss", loss], ["boxes", "post hoc", post_hoc], ["boxes", "sampler", sampler]),
        *(["images", "loss", loss], ["images", "post hoc", post_hoc]),
        *(["images", "sampler", sampler], ["pixels", "loss", loss]),
        *(["pixels", "post hoc", post_hoc], ["pixels", "sampler", sampler]),
    ]


def test_what_is_named_is_there():
    dotted = {name for name in NAMES if name.startswith("longtail.")}
    dotted -= {"longtail.projects", "longtail.commands"}
    assert len(dotted) >= 8 and [n for n in sorted(dotted) if pydoc.locate(n) is None] == []
    keys = {name for name in NAMES if re.match(r"(MODEL|DATALOADER|DATASETS|INPUT)\.", name)}
    cfg = get_cfg()
    assert len(keys) >= 12 and [get_value(cfg, key) for key in keys]
    registries = {name for name in NAMES if re.fullmatch(r"[A-Z_]+_REGISTRY", name)}
    assert len(registries) == 4 and all(hasattr(detectron2.modeling, n) for n in registries)


def test_the_table_of_a_project_is_complete():
    part = TEXT.partition("| field of `Project` | what |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("|")][1:]
    fields = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(fields) == sorted(field.name for field in dataclasses.fields(Project))
