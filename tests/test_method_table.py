# SPDX-License-Identifier: Apache-2.0
"""The table of docs/methods.md: every method, as exact as benchmarks/method_parity.py measured."""

import json

import pytest
import yaml

from benchmarks.method_parity import compare_all, excess
from benchmarks.parity import Comparison
from longtail.config import Method
from longtail.engine.methods import all_methods
from tests.messages import raises_naming
from tools import method_table
from tools.method_table import BEGIN, END, PAGE, PARITY, SOURCES, generate, main, table

RESULT = json.loads(PARITY.read_text(encoding="utf-8"))
COMPARISONS = [
    Comparison(**{**row, "classes": tuple(row["classes"])})
    for row in RESULT["figures"]["comparisons"]
]
# What keeps a constant in float32, is computed by detectron2 in float32, or ends a numerical fit.
NOT_EXACT = {
    *(("loss", name) for name in ("reweighted_cross_entropy", "class_balanced", "ldam_drw")),
    *(("loss", f"balanced_softmax{end}") for end in ("", "_pixel_prior", "_region_prior")),
    *(("sampler", "RepeatFactorTrainingSampler"), ("post hoc", "score_calibration")),
    *(("second stage", name) for name in ("cRT", "DisAlign of queries")),
}


def rows_of(text):
    """Cells of the generated table's rows, by the name without code marks and the group."""
    lines = text.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    found, group = {}, None
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith("**"):
            group = cells[0]
        else:
            found[group, cells[0].strip("`")] = cells[1:]
    return found


def test_the_page_is_what_is_generated():
    assert generate() == PAGE.read_text(encoding="utf-8")


def test_every_method_has_a_row_with_its_tasks():
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    expected = {}
    for method in all_methods():
        expected.setdefault((method.kind, method.name), {})[method.task[0].upper()] = None
    assert len(rows) == len(expected) > 30
    for (_, name), tasks in expected.items():
        found = [cells for (_, row), cells in rows.items() if row == name]
        assert [cells[0] for cells in found] == [" ".join(tasks)]
        assert all(cell for cells in found for cell in cells)


def test_keys_by_hand():
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    assert rows["**losses**", "seesaw"][1] == "`LOSS` `PIXEL_LOSS` `CLASS_LOSS`"
    assert rows["**samplers**", "TrainingSampler"][1] == "`DATALOADER.SAMPLER_TRAIN`"
    assert rows["**post hoc**", "ncm"][1] == "`POST_HOC.METHOD`"
    assert rows["**second stages**", "LWS"][1] == (
        "I `META_ARCHITECTURE ScaledImageClassifier`, "
        "`DATALOADER.SAMPLER_TRAIN ClassBalancedTrainingSampler`; "
        "P `SEM_SEG_HEAD.NAME ScaledSemSegHead`, "
        "`SEM_SEG_HEAD.PIXEL_LOSS reweighted_cross_entropy`; "
        "B `META_ARCHITECTURE ScaledRCNN`, "
        "`DATALOADER.SAMPLER_TRAIN ClassBalancedTrainingSampler`"
    )


@pytest.mark.parametrize("row", COMPARISONS, ids=lambda r: f"{r.kind}-{r.method}-{r.task}")
def test_recorded_differences_are_within_their_bounds(row):
    assert row.bound <= (1e-6 if (row.kind, row.method) in NOT_EXACT else 1e-12)
    assert (row.limit == "") == (row.bound <= 1e-12)
    assert 0 <= row.value <= row.bound
    assert row.gradient is None or 0 <= row.gradient <= row.bound
    assert (row.gradient is None) == (row.kind == "sampler" or row.method == "score_calibration")
    assert 1203 in row.classes or row.method == "score_calibration"


def test_what_is_here_now_is_within_the_bounds_too():
    pytest.importorskip("transformers")
    rows = compare_all((7,))
    assert [line for line in map(excess, rows) if line] == []
    key = [row[:4] for row in COMPARISONS]
    assert [row[:4] for row in rows] == key


def test_an_excess_is_named():
    row = COMPARISONS[0]._replace(gradient=2e-12, bound=1e-12)
    assert row.method in excess(row) and "2.0e-12" in excess(row)
    assert excess(row._replace(gradient=1e-12)) == ""


def test_the_command_names_no_folder():
    assert RESULT["command"] == "python -m benchmarks.method_parity"


@pytest.fixture
def inputs():
    sources = yaml.safe_load(SOURCES.read_text(encoding="utf-8"))
    return all_methods(), RESULT["figures"]["comparisons"], sources


def test_a_method_without_source_or_comparison_is_named(inputs):
    methods, comparisons, sources = inputs
    new = Method("brand_new", "loss", "images", "MODEL.CLASSIFIER.LOSS brand_new", "What")
    with raises_naming(ValueError, SOURCES.name, "lacks", "loss brand_new"):
        table([*methods, new], comparisons, sources)
    sources["loss"]["brand_new"] = "us"
    with raises_naming(ValueError, PARITY.name, "lacks", "loss brand_new images"):
        table([*methods, new], comparisons, sources)
    with raises_naming(ValueError, SOURCES.name, "no method", "loss brand_new"):
        table(methods, comparisons, sources)


def test_a_page_that_was_edited_by_hand_is_refused_and_written_anew(tmp_path, monkeypatch, capsys):
    page, text = tmp_path / "methods.md", PAGE.read_text(encoding="utf-8")
    edited = text.replace("| Wang et al., CVPR 2021; mmdetection 3.3 |", "| somebody |")
    assert edited != text
    page.write_text(edited, encoding="utf-8")
    monkeypatch.setattr(method_table, "PAGE", page)
    with pytest.raises(SystemExit) as refused:
        main(["--check"])
    assert refused.value.code and "docs/methods.md" in f"{refused.value}{capsys.readouterr()}"
    main([])
    assert page.read_text(encoding="utf-8") == text
    page.write_text(text.replace(END, ""), encoding="utf-8")
    with raises_naming(SystemExit, END):
        main([])


def test_exactness_by_hand():
    row = {"against": "transcription", "limit": "", "task": "images", "value": 3e-16}
    first, second = {**row, "gradient": 0.0}, {**row, "gradient": 2.4e-15, "task": "boxes"}
    cell = method_table.exactness_cell
    assert cell([first, second]) == "3e-16, 2e-15"
    assert cell([first, {**second, "against": "torchvision"}]) == (
        "I 3e-16, 0; B 3e-16, 2e-15 (torchvision)"
    )
    assert cell([{**row, "gradient": None, "limit": "float32"}]) == "3e-16 (float32)"
