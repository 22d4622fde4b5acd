# SPDX-License-Identifier: Apache-2.0
"""``longtail compare``: what is printed and written, and what is refused."""

import csv
import io

import pytest

from longtail.commands.compare import main
from tests.finished_runs import write_run
from tests.messages import assert_names


@pytest.fixture
def runs(tmp_path):
    for name, miou in (("base", 40), ("mine", 43)):
        write_run(tmp_path / name, {"mIoU": miou}, config={"MODEL": {"HEAD": name}})
    return [str(tmp_path / "base"), str(tmp_path / "mine")]


def test_printed(runs, capsys):
    main(runs)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mIoU", "40.00", "43.00", "+3.00"] in rows
    main([runs[1], f"old={runs[0]}"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mIoU", "43.00", "40.00", "-3.00"] in rows


def test_written(runs, tmp_path, capsys):
    path = tmp_path / "new" / "x.csv"
    main([*runs, "--format", "csv", "--output", str(path)])
    assert capsys.readouterr().out == f"written: {path}\n"
    assert path.read_text().startswith("metric,class,group,")
    assert "\nmIoU,,,,,,mine,1,43.0,,3.0,,,True\n" in path.read_text()


def test_names_are_no_formulas_and_no_markup(tmp_path, capsys):
    names = ("=HYPERLINK(1)", "a|b", "<b>c")
    for folder, iou in (("base", 40.0), ("mine", 43.0)):
        config = {"MODEL": {"HEAD": folder}}
        write_run(tmp_path / folder, {}, (iou, iou, iou), names=names, config=config)
    runs = [f"@SUM={tmp_path / 'base'}", str(tmp_path / "mine")]
    main([*runs, "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["class"] for row in rows} == {"", "'=HYPERLINK(1)", "a|b", "<b>c"}
    assert {row["method"] for row in rows} == {"'@SUM", "mine"}
    main([*runs, "--format", "markdown"])
    text = capsys.readouterr().out
    assert "a\\|b" in text and "\\<b\\>c" in text and "<b>c" not in text


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["{tmp}/gone"], ["{tmp}/gone"]),
        (["{tmp}/base/inference/toy_val"], ["{tmp}/base/inference/toy_val", "OUTPUT_DIR"]),
        (["{tmp}/base", "--output", "{tmp}"], ["--output", "{tmp}"]),
        (["{tmp}", "--dataset", "other"], ["other", "--dataset"]),
        (["=x"], ["NAME=FOLDER"]),
    ],
)
def test_bad_input_is_one_line(runs, tmp_path, arguments, parts):
    with pytest.raises(SystemExit) as info:
        main([argument.format(tmp=tmp_path) for argument in arguments])
    assert info.value.code.startswith("error: ")
    assert_names(info.value.code, *(part.format(tmp=tmp_path) for part in parts))
