# SPDX-License-Identifier: Apache-2.0
"""The papers' tables as data: facts that tie their numbers together, and the reader's errors."""

import itertools
import json
import re
import shutil
from collections import defaultdict
from decimal import Decimal

import pytest

from longtail.config.tables import TABLES, read_leaves, read_notes, read_tables
from longtail.data.datasets.ade20k import CLASS_GROUPS
from tests.config.common import LEAVES, ROOT

EVERY = read_tables()
PRINTED = {name: table for name, table in EVERY.items() if table.paper}
FOUND = read_leaves()
ROWS = [(table, row) for table in PRINTED.values() for row in table.rows]


def test_number_of_rows():
    """Counted on the papers' pages: printed lines times runs side by side."""
    images = {1: 2 * 8 + 3, 3: 1 + 4 * 6 + 2 + 4, 4: 10, 5: 4, 10: 12 * 2, 11: 4, 12: 7}
    images |= {13: 12 * 2, 14: 6}
    others = {6: 12, 15: 24, 16: 150, 7: 12 * 2, 8: 9 + 5, 9: 2 + 4 + 2, 17: 12, 18: 12}
    expected = {f"disalign_table_{n}": count for n, count in (images | others).items()}
    rebalance = {1: 5, 2: 3, 3: 11 * 2, 4: 10 * 2, 5: 5, 6: 4, 7: 2 * 2}
    expected |= {f"region_rebalance_table_{n}": count for n, count in rebalance.items()}
    found = {name: len(table.rows) for name, table in PRINTED.items() if "_table_" in name}
    assert found == expected


# Numbers of the papers' text and of the release, typed apart from the tables.
DEEPLAB, MASK = "deeplabv3plus_R_50c_160k_rr", "mask_rcnn_R_50_FPN"
SPOT = [
    ("region_rebalance_table_3", f"ADE20K/{DEEPLAB}", "mIoU", "45.02"),
    ("region_rebalance_table_3", "ADE20K/upernet_beit_L_160k_rr", "mIoU (m.s.)", "57.7"),
    ("disalign_table_15", "ADE20K/fcn_R_50c_160k_disalign", "mIoU tail", "28.8"),
    ("disalign_table_8", f"LVISv0.5/{MASK}_cosine_coco_disalign", "mask AP", "27.9"),
    ("disalign_table_13", "iNaturalist2018/R_50_90e_cosine_disalign", "average", "69.5"),
    ("disalign_release_lvis", f"LVISv1/{MASK}", "box AP", "18.8"),
    ("disalign_release_lvis", f"LVISv1/{MASK}_cosine", "mask AP", "21.1"),
    ("disalign_release_lvis", f"LVISv1/{MASK}_rfs", "box AP", "22.9"),
    ("disalign_release_lvis", f"LVISv1/{MASK}_disalign", "mask AP", "21.3"),
    ("disalign_release_lvis", f"LVISv1/{MASK}_cosine_disalign", "box AP", "24.8"),
    ("disalign_release_lvis", f"LVISv0.5/{MASK}_cosine_rfs_disalign", "mask AP", "27.5"),
    ("disalign_release_lvis", "LVISv0.5/mask_rcnn_R_101_FPN_cosine_rfs_disalign", "box AP", "28.7"),
]


def test_printed_numbers():
    for table, config, metric, value in SPOT:
        found = [r.metrics.get(metric) for r in PRINTED[table].rows if r.config == f"{config}.yaml"]
        assert Decimal(value) in found, (table, config)


# By data set: groups and their numbers of classes; on LVIS of those in the validation images.
FREQUENCIES = ("r", "c", "f")
IMAGES = ("many", "medium", "few")
SIZES = {
    "ImageNet-LT": (IMAGES, (385, 479, 136)),
    "iNaturalist": (IMAGES, (842, 4076, 3224)),
    "Places-LT": (IMAGES, (131, 163, 71)),
    "ADE20K": (("head", "body", "tail"), (20, 55, 75)),
    "LVIS v0.5": (FREQUENCIES, (125, 392, 313)),
    "LVIS v1": (FREQUENCIES, (178, 452, 405)),
}
# Printed like this: the average, or one of the groups, is not that of the run.
MISPRINTED = {
    ("disalign_table_1", "X-50, DisAlign", "average"),
    ("disalign_table_10", "ResNeXt-50, DisAlign", "average"),
    ("disalign_table_4", "ResNet-152, Feature Aug", "average"),
    ("disalign_table_15", "FCN, S-101, DisAlign", "mAcc"),
    ("disalign_table_17", "ResNeXt-101, DisAlign*", "box AP"),
    ("disalign_table_4", "ResNet-152, OLTR", "average"),
    ("disalign_table_6", "DeepLabV3+, S-101, DisAlign", "mAcc (m.s.)"),
    ("disalign_table_15", "DeepLabV3+, S-101, DisAlign, Aug", "mAcc (m.s.)"),
    ("disalign_table_8", "ImageNet, Baseline", "mask AP"),
    ("disalign_table_8", "COCO, Baseline", "mask AP"),
    ("disalign_table_8", "COCO, DisAlign", "box AP"),
    ("disalign_table_17", "ResNet-50, Baseline", "mask AP"),
}


def parts_of(metric: str, group: str) -> str:
    """Return the metric of a group: ``mIoU tail (m.s.)``, ``box APr``, ``few``."""
    if metric == "average":
        return group
    name, _, scales = metric.partition(" (")
    return f"{name}{'' if len(group) == 1 else ' '}{group}{f' ({scales}' if scales else ''}"


def test_averages_are_those_of_the_groups():
    """An average over classes is that over groups, weighted by their classes.

    Half a digit may be lost in the average, and half in the groups.
    """
    compared, off = 0, set()
    for table, row in ROWS:
        key = row.label if table.name.startswith("disalign_release_lvis") else table.subject
        key = key.replace("lvisv1", "LVIS v1").replace("mask_rcnn.res50.fpn.lvis.", "LVIS v0.5")
        groups, sizes = next((SIZES[name] for name in SIZES if name in key), ((), ()))
        for metric, value in row.metrics.items():
            parts = [row.metrics.get(parts_of(metric, group)) for group in groups]
            if not parts or None in parts:
                continue
            mean = sum(n * part for n, part in zip(sizes, parts, strict=True)) / sum(sizes)
            digit = Decimal(1).scaleb(value.as_tuple().exponent)
            if abs(mean - value) > digit:
                off.add((table.name, row.label, metric))
            compared += 1
    assert off == MISPRINTED
    assert compared > 250


# Tables 8 and 17 of DisAlign differ in a digit.
DIFFER = {
    ("LVISv0.5/mask_rcnn_R_50_FPN_disalign.yaml", f"mask AP{group}") for group in ("", "c", "f")
}
DIFFER |= {("LVISv0.5/mask_rcnn_R_50_FPN_cosine.yaml", "box APr")}


def test_tables_of_a_paper_agree():
    values, seen = defaultdict(set), 0
    for table, row in ROWS:
        for metric, value in row.metrics.items():
            if row.config and "release" not in table.paper:
                seen += (key := (table.paper, row.config, metric)) in values
                values[key].add(value)
    assert {key[1:] for key, printed in values.items() if len(printed) > 1} == DIFFER
    assert seen > 200


def test_groups_of_ade20k():
    """Table 16, in the order of the classes' indices."""
    rows = PRINTED["disalign_table_16"].rows
    for name, classes in CLASS_GROUPS.items():
        assert [row.label.split(", ")[1] for row in rows].index(name.title()) == classes[0]
        assert all(rows[index].label.endswith(f", {name.title()}") for index in classes)
    shares = [row.metrics["pixel share"] for row in rows]
    # One of them is printed with a digit less.
    assert all(a + Decimal("0.0004") >= b for a, b in itertools.pairwise(shares))
    assert abs(sum(shares) - 1) < Decimal("0.1")


def test_every_leaf_has_a_row_or_is_in_neither_paper():
    assert [*FOUND] == [
        f"{name}.yaml" for name in sorted(LEAVES, key=lambda n: n.rpartition("/")[::2])
    ]
    printed = {row.config for _, row in ROWS if row.config}
    assert printed <= FOUND.keys()
    assert {config for config, leaf in FOUND.items() if not leaf.title} == printed


def test_tables_of_ours():
    """They have every config of their data sets, none of which is printed."""
    rows = [row for table in EVERY.values() if not table.paper for row in table.rows]
    folders = {"CamVid", "quickstart", "digits-LT", "synthetic-LT", "LVIS-CamVid", "LVIS-Synthetic"}
    folders |= {"CCP", "IoTKITs-LT", "LVIS-Hued", "CIFAR100-LT-40e", "digit-scenes"}
    assert sorted(r.config for r in rows) == sorted(
        config for config in FOUND if config.split("/")[0] in folders
    )
    assert not any(row.metrics for row in rows)


def test_short_names():
    """Of the file's name; a paper's tables by its initials, or its name."""
    names = [table.short for table in EVERY.values()]
    assert len({*names}) == len(names)
    for table in EVERY.values():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", table.short)
        own = "rr" if table.paper == "Region Rebalance" else table.name.split("_")[0]
        assert table.short.split("-")[0] == own
        if table.number.startswith(("Table", "Figure")):
            assert table.short.split("-")[1] == table.number.lower().replace(" ", "")


def test_tables_that_are_not_of_runs_have_a_command():
    for table in EVERY.values():
        assert bool(table.command) == (not any(row.config for row in table.rows))
        assert all(row.config == "" for row in table.rows if row.dataset)


def test_notes():
    used = {note for leaf in FOUND.values() for note in leaf.notes}
    assert used == read_notes().keys()
    for config, leaf in FOUND.items():
        release = config.startswith("LVISv") and config.endswith("_disalign.yaml")
        assert ("release-lvis-stage2" in leaf.notes) == release


def test_methods_without_config_are_named():
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8").lower()
    runs = ("region_rebalance_table_2", "region_rebalance_figure_5b", "disalign_table_16")
    others = {row.label for table, row in ROWS if not row.config and table.name not in runs}
    methods = {label.split(", ")[-1].rstrip("*").split()[0].replace("-", "") for label in others}
    methods -= {"MaskRCNNR50FPNRFS(A1)"}  # Another paper's run of RFS.
    assert methods == {"Deconfound", "BBN", "Range", "OLTR", "Feature", "SimCal", "LST"}
    assert all(f"| {method.lower()}" in text for method in methods)


def results_of(document: dict) -> dict[tuple[str, str], str]:
    """Return "mean ± deviation" of a document in benchmarks/results, by config and metric."""
    found = {}
    for table in document["figures"]["tables"].values():
        for row in table["rows"].values():
            # A row with options of its own is not what the config gives.
            values = {} if row["options"] else row["mean and standard deviation"]
            for metric, (mean, deviation) in values.items():
                text = "" if mean is None else f"{mean:.1f}"
                found[row["config"], metric] = text + (
                    f" ± {deviation:.1f}" if deviation is not None else ""
                )
    return found


def test_measured_numbers_are_those_of_the_named_file():
    compared = 0
    for config, leaf in FOUND.items():
        if leaf.source.startswith("benchmarks/results/"):
            results = results_of(json.loads((ROOT / leaf.source).read_text(encoding="utf-8")))
            for metric, measured in leaf.measured.items():
                assert str(measured) == results[config, metric], (config, metric)
                compared += 1
    assert compared > 300


BROKEN = {
    "a number": ("disalign_table_7.csv", "20.8", "20,8", "line 2: expected 4 cells"),
    "digits": ("disalign_table_7.csv", "20.8", "2O.8", "line 2: box AP .* '2O.8'"),
    "a column": ("disalign_table_7.csv", "config,", "path,", "columns row, config, got .*path"),
    "a leaf": (
        "leaves.csv",
        "CamVid/fcn_lite0_rr.yaml",
        "CamVid/fcn_lite0.yaml",
        "fcn_lite0.* twice",
    ),
    "measured": ("leaves.csv", "digits-LT/bags.yaml", "digits-LT/bag.yaml", "lacks digits-LT/bags"),
}


@pytest.mark.parametrize(("name", "old", "new", "message"), BROKEN.values(), ids=BROKEN)
def test_says_what_is_wrong(tmp_path, name, old, new, message):
    folder = tmp_path / "tables"
    shutil.copytree(TABLES, folder)
    text = (folder / name).read_text(encoding="utf-8")
    (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        read_tables(folder), read_leaves(folder)
