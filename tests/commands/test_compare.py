# SPDX-License-Identifier: Apache-2.0
"""``longtail compare``: what is printed and written, and what is refused."""

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
