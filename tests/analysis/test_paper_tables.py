# SPDX-License-Identifier: Apache-2.0
"""Tables beside runs: means, deviations and differences by hand, and how they read."""

import csv
import io
import math
from decimal import Decimal

import pytest

from longtail.analysis.paper_tables import fill_tables
from longtail.analysis.runs import find_runs
from longtail.analysis.table_text import to_csv, to_markdown, to_text
from longtail.config.tables import find_table, read_leaves, read_notes, read_tables
from tests.finished_runs import recorded, write_classification, write_detection, write_run

TABLES, LEAVES, NOTES = read_tables(), read_leaves(), read_notes()
BASE, RR = "ADE20K/deeplabv3plus_R_50c_160k.yaml", "ADE20K/deeplabv3plus_R_50c_160k_rr.yaml"
VAL = "ade20k_sem_seg_val"


def fill(name, folder=None):
    runs = find_runs([folder]) if folder else []
    return fill_tables([find_table(TABLES, name)], LEAVES, runs)


def lines_of(name, folder=None):
    return fill(name, folder).tables[0].lines


def write(folder, config, values, several=()):
    """Runs with seeds 0, 1, ... and their mIoU, of one scale and of several."""
    for seed, value in enumerate(values):
        of_run = {"config": recorded(config, "SEED", seed), "dataset": VAL, "iteration": None}
        write_run(folder / f"{seed}", {"mIoU": value}, **of_run)
        if seed < len(several):
            write_run(folder / f"{seed}", {"mIoU": several[seed]}, multi_scale=True, **of_run)


def test_mean_deviation_difference(tmp_path):
    """45, 46, 48: mean 46.33, squared deviations 16/9 + 1/9 + 25/9 = 14/3, halved, the root."""
    write(tmp_path / "rr", RR, [45.0, 46.0, 48.0])
    lines = lines_of("rr-table1", tmp_path)
    line = lines[-1]
    assert (line.row.config, line.seeds) == (RR, (0, 1, 2))
    cell = line.cells["mIoU"]
    assert cell.published.mean == Decimal("45.02")
    assert cell.mean == pytest.approx(139 / 3)
    assert cell.deviation == pytest.approx(math.sqrt(7 / 3))
    assert cell.difference == pytest.approx(139 / 3 - 45.02)
    assert [len(line.runs) for line in lines] == [0, 0, 0, 0, 3]


def test_one_run_has_no_deviation(tmp_path):
    write(tmp_path, RR, [45.0])
    cell = lines_of("rr-table1", tmp_path)[-1].cells["mIoU"]
    assert (cell.mean, cell.count, math.isnan(cell.deviation)) == (45.0, 1, True)


def test_text(tmp_path):
    """Numbers stand below each other; a mean of fewer runs says of how many."""
    write(tmp_path / "base", BASE, [43.9, 44.3], [45.0])
    write(tmp_path / "rr", RR, [45.0])
    lines = to_text(fill("rr-table3", tmp_path), NOTES).splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("DeepLabv3+, ResNet-50"))
    assert lines[start : start + 6] == [
        "DeepLabv3+, ResNet-50 [1]   published   43.95         44.93",
        "                            here        44.10 ± 0.28  45.00 (1)  2: seeds 0, 1",
        "                            difference  +0.15         +0.07",
        "DeepLabv3+-RR, ResNet-50    published   45.02         46.03",
        "                            here        45.00             -      1: seed 0",
        "                            difference  -0.02",
    ]
    assert "OCRNet, HRNet-W18           published   39.32         40.80      none" in lines
    assert lines[0] == "Region Rebalance, Table 3 (ADE20K), percent"
    assert "20 of 22 rows have no run." in lines
    assert any(line.startswith("[1] The DisAlign paper names a batch of 32;") for line in lines)
    assert max(map(len, lines)) <= 100


def test_without_runs_the_published_numbers_and_configs():
    lines = to_text(fill("disalign-table9"), NOTES).splitlines()
    assert lines[0] == "DisAlign, Table 9 (LVIS v1.0, Cascade R-CNN), percent, as published"
    assert lines[2].split() == ["box"] * 4 + ["mask"] * 4
    assert lines[3].split() == ["row", *["AP", "APr", "APc", "APf"] * 2, "config"]
    expected = ["ResNet-101,", "De-confound", "25.8", "23.5", "5.2", "22.7", "32.3", "no", "config"]
    assert lines[7].split() == expected
    assert lines[5].endswith("  LVISv1/cascade_rcnn_R_50_FPN_cosine.yaml")
    assert any("docs/methods.md" in line for line in lines)


def test_rows_of_several_scales_share_the_columns(tmp_path):
    """Table 15 has a row for one scale and one for several, of the same config."""
    config = "ADE20K/fcn_R_50c_160k.yaml"
    write(tmp_path, config, [36.0], [38.2])
    filled = fill("disalign-table15", tmp_path)
    single, _, several = filled.tables[0].lines[:3]
    assert single.cells["mIoU"].mean == 36.0 and several.cells["mIoU (m.s.)"].mean == 38.2
    assert "mIoU" not in several.cells
    lines = to_text(filled, NOTES).splitlines()
    groups = ["head", "body", "tail"]
    assert lines[3].split() == ["row", "mIoU", *groups, "mAcc", *groups, "runs"]
    here = [line.split() for line in lines if "here" in line]
    assert here[0][:3] == ["here", "36.0", "90.0"] and here[1][:3] == ["here", "38.2", "90.0"]
    assert any(line.startswith("FCN, R-50, Baseline, Aug (m.s.) [1]") for line in lines)


def test_markdown(tmp_path):
    write(tmp_path, RR, [45.0, 46.0])
    text = to_markdown(fill("rr-table5", tmp_path), NOTES)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["row", "", "mIoU", "runs"] in rows
    assert ["λ = 0.3", "published", "45.02", ""] in rows
    assert ["", "here", "45.50 ± 0.71", "2: seeds 0, 1"] in rows
    assert ["", "difference", "+0.48", ""] in rows
    assert "\n- 4 of 5 rows have no run." in text


def test_csv(tmp_path):
    write(tmp_path, RR, [45.0, 46.0])
    tables = [find_table(TABLES, name) for name in ("rr-table5", "rr-table6")]
    filled = fill_tables(tables, LEAVES, find_runs([tmp_path]))
    [*rows] = csv.DictReader(io.StringIO(to_csv(filled)))
    assert [row["table"] for row in rows] == ["rr-table5"] * 5 + ["rr-table6"] * 4
    row = rows[3]
    assert (row["row"], row["config"], row["metric"]) == ("λ = 0.3", RR, "mIoU")
    assert (row["published"], row["mean"], row["runs"], row["seeds"]) == (
        "45.02",
        "45.5",
        "2",
        "0 1",
    )
    assert float(row["deviation"]) == pytest.approx(math.sqrt(0.5))
    assert float(row["difference"]) == pytest.approx(0.48)
    assert rows[0]["mean"] == rows[0]["deviation"] == rows[0]["difference"] == ""


def test_a_table_of_ours_stands_beside_what_was_recorded(tmp_path):
    config = "digits-LT/linear.yaml"
    write_classification(tmp_path, 83.5, dataset="digits_lt_test", config=recorded(config),
                         iteration=None)  # fmt: skip
    line = lines_of("digits-lt", tmp_path)[0]
    # 82.6 ± 1.6 in measured_images.csv.
    assert str(line.cells["average"].published) == "82.6 ± 1.6"
    assert line.cells["average"].difference == pytest.approx(0.9)
    assert (line.cells["many"].mean, line.cells["few"].mean) == (84.5, 82.5)
    assert line.cells["medium"].count == 0


def test_detection(tmp_path):
    config = "LVISv0.5/mask_rcnn_R_50_FPN.yaml"
    metrics = {"bbox": {"AP": 21.0, "APr": 3.0}, "segm": {"AP": 21.5, "APr": float("nan")}}
    write_detection(tmp_path, metrics, dataset="lvis_v0.5_val", config=recorded(config),
                    iteration=90000)  # fmt: skip
    cells = lines_of("disalign-table17", tmp_path)[0].cells
    assert (cells["box AP"].difference, cells["box APr"].mean) == (pytest.approx(0.2), 3.0)
    assert cells["mask APr"].count == 0


def test_a_plot_shows_what_is_here(tmp_path):
    config = "ImageNet-LT/ablations/rho_0.4.yaml"
    assert "No number is printed" in to_text(fill("disalign-figure5"), NOTES)
    write_classification(tmp_path, 40.0, dataset="imagenet_lt_val", config=recorded(config),
                         iteration=None)  # fmt: skip
    line = lines_of("disalign-figure5", tmp_path)[1]
    assert line.cells["average"].mean == 40.0 and math.isnan(line.cells["average"].difference)


def test_class_statistics():
    """The paper's Figure 5b: 827, 282, 2612, 528; it cuts digits off. Table 16's shares fall."""
    lines = lines_of("rr-figure5b")
    found = [cell.mean for line in lines for cell in line.cells.values()]
    assert [int(value) for value in found] == [827, 282, 2612, 528]
    shares = [line.cells["pixel share"].mean for line in lines_of("disalign-table16")]
    assert shares[0] == pytest.approx(0.1693, abs=5e-5) and sum(shares) == pytest.approx(1)
    assert "longtail class-statistics" in to_text(fill("disalign-table16"), NOTES)


@pytest.mark.parametrize("name", [table.short for table in TABLES.values()])
def test_every_table_can_be_printed(name):
    """With all its printed cells, in each form."""
    filled = fill(name)
    text, markdown = to_text(filled, NOTES), to_markdown(filled, NOTES)
    rows = list(csv.DictReader(io.StringIO(to_csv(filled))))
    [table] = filled.tables
    for row in table.table.rows:
        assert row.label in text and row.label in markdown
        printed = {r["metric"]: r["published"] for r in rows if r["row"] == row.label}
        for metric, value in row.metrics.items():
            assert str(value) in text and str(value) in markdown
            assert metric in printed
    assert len(rows) == sum(len(line.cells) for line in table.lines)
