# SPDX-License-Identifier: Apache-2.0
"""Comparisons of methods: numbers that were computed by hand, or by scipy."""

import csv
import io
import math

import numpy as np
import pytest
import scipy.stats

from longtail.analysis.compare import class_correlations, compare_methods
from longtail.analysis.compare_tables import changed_classes, render
from longtail.analysis.methods import find_methods
from tests.finished_runs import write_run
from tests.messages import raises_naming

BASE, MINE = (40, 42, 44), (43, 44, 48)


def write(folder, metrics, seeds=(0, 1, 2), **others):
    """A run of each seed; IoU of the first class is mIoU, of the second 30, the third has none."""
    for seed, miou in zip(seeds, metrics, strict=True):
        config = {"MODEL": {"HEAD": folder.name}}
        iou = (miou, 30.0, None)
        write_run(folder / f"seed{seed}", {"mIoU": miou}, iou, seed=seed, config=config, **others)


def compared(*folders, **options):
    return compare_methods(find_methods(map(str, folders)), **options)


@pytest.fixture
def two(tmp_path):
    write(tmp_path / "base", BASE)
    write(tmp_path / "mine", MINE)
    return compared(tmp_path / "base", tmp_path / "mine")


def test_pairs_of_seeds(two):
    """Differences 3, 2, 4: mean 3, deviation 1, t 4.3027 of 2 degrees of freedom, over sqrt(3)."""
    [base, mine] = two.metrics["mIoU"].spreads
    assert (base.mean, base.deviation, base.count) == (42, 2, 3)
    assert (mine.mean, mine.deviation) == (45, pytest.approx(math.sqrt(7)))
    [found] = two.metrics["mIoU"].differences
    assert found.paired and found.mean == 3
    margin = 4.302653 / math.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(3 - margin), pytest.approx(3 + margin))
    # Of a class the same; and none where there is no ground truth.
    [of_class] = two.classes["IoU"].differences
    np.testing.assert_allclose(of_class.mean, [3, 0, np.nan])
    np.testing.assert_allclose(of_class.low, [3 - margin, 0, np.nan], rtol=1e-5)
    assert two.notes == ("mine minus base: over 3 pairs of runs with the same seed.",)


@pytest.mark.parametrize("seeds", [(3, 4, 5), (0, 1, 3), (0, 1, 1), (-1, 0, 1)])
def test_other_seeds_are_no_pairs(tmp_path, seeds):
    write(tmp_path / "base", BASE)
    for number, (seed, miou) in enumerate(zip(seeds, MINE, strict=True)):
        write(tmp_path / "mine" / str(number), [miou], [seed])
    found = compared(tmp_path / "base", f"mine={tmp_path}/mine")
    [difference] = found.metrics["mIoU"].differences
    # By Welch.
    wanted = scipy.stats.ttest_ind(MINE, BASE, equal_var=False).confidence_interval()
    assert not difference.paired and difference.mean == 3
    assert (difference.low, difference.high) == pytest.approx((wanted.low, wanted.high))


def test_a_seed_that_is_there_twice_makes_no_pairs(tmp_path):
    for name, values in (("base", BASE), ("mine", MINE)):
        for number, (seed, miou) in enumerate(zip((0, 1, 1), values, strict=True)):
            write(tmp_path / name / str(number), [miou], [seed])
    found = compared(*(f"{name}={tmp_path}/{name}" for name in ("base", "mine")))
    assert not found.metrics["mIoU"].differences[0].paired
    twice = [note.split(" has ")[0] for note in found.notes if "more than once" in note]
    assert twice == ["base", "mine"]


def test_unknown_seeds_are_no_pairs(tmp_path):
    write(tmp_path / "base", BASE[:1], [-1])
    write(tmp_path / "mine", MINE[:1], [-1])
    found = compared(tmp_path / "base", tmp_path / "mine")
    assert not found.metrics["mIoU"].differences[0].paired


def test_single_runs_have_no_interval(tmp_path):
    write(tmp_path / "base", BASE[:1], [0])
    write(tmp_path / "mine", MINE)
    found = compared(tmp_path / "base", tmp_path / "mine")
    [difference] = found.metrics["mIoU"].differences
    assert difference.mean == 5 and math.isnan(difference.low)
    assert found.notes[0].startswith("mine minus base: no confidence interval")
    row = next(line for line in render(found, "text").splitlines() if line.startswith("mIoU "))
    assert row.split() == ["mIoU", "40.00", "45.00", "±", "2.65", "+5.00"]


def test_what_changed_most(tmp_path):
    names = ("a", "b", "c", "d")
    for name, iou in (("base", (50, 50, 50, None)), ("mine", (40, 50, 61, None))):
        config = {"MODEL": {"HEAD": name}}
        write_run(tmp_path / name, {}, iou, names=names, config=config)
    found = compared(tmp_path / "base", tmp_path / "mine")
    assert changed_classes(found, "IoU", 0) == [2, 0]
    lines = render(found, "text").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("IoU of the classes that"))
    rows = [line.split() for line in lines[start + 4 : start + 6]]
    assert rows == [
        ["c", "tail", "10", "50.00", "61.00", "+11.00"],
        ["a", "head", "900", "50.00", "40.00", "-10.00"],
    ]


def test_correlation_with_frequency(two):
    """IoU 42 and 30 of two classes with 900 and 90 pixels: a line, upwards."""
    [base, mine] = class_correlations(two)["IoU", "pixels"]
    assert base == {"pearson": pytest.approx(100), "spearman": pytest.approx(100), "classes": 2}
    assert mine["classes"] == 2


def test_text(two):
    text = render(two, "text")
    assert text.startswith("toy_val: 7 images, 3 classes (head 1, body 1, tail 1), in percent\n")
    assert "  base: 3 runs, seeds 0, 1, 2\n" in text
    row = next(line for line in text.splitlines() if line.startswith("mIoU "))
    assert row.split("  ")[-1].strip() == "+3.00 [+0.52, +5.48]"
    assert "42.00 ± 2.00  45.00 ± 2.65" in row
    # Frequent classes first, what has no ground truth without a number.
    start = text.index("IoU of all classes")
    names = [line.split()[0] for line in text[start:].splitlines()[4:]]
    assert names == ["road", "tree", "pole"]
    assert text.splitlines()[-1].split()[3:] == ["-", "-", "-"]


def test_markdown_shows_names_as_they_are(tmp_path):
    config = {"MODEL": {"HEAD": "x"}}
    write_run(tmp_path / "a", {}, (1, 2, 3), names=("a|b", "<i>c</i>", "d_e"), config=config)
    text = render(compared(tmp_path), "markdown")
    assert text.startswith("# toy_val") and "\n## Metrics\n" in text
    assert r"| a\|b " in text and r"| \<i\>c\</i\> " in text and r"| d\_e " in text


def test_csv_has_every_value(two):
    rows = list(csv.DictReader(io.StringIO(render(two, "csv"))))
    [miou] = [r for r in rows if (r["metric"], r["class"], r["method"]) == ("mIoU", "", "mine")]
    assert float(miou["mean"]) == 45 and miou["runs"] == "3" and miou["paired"] == "True"
    assert float(miou["difference"]) == 3 and float(miou["low"]) == pytest.approx(
        0.515862, abs=1e-6
    )
    [road] = [r for r in rows if (r["metric"], r["class"], r["method"]) == ("IoU", "road", "base")]
    assert (road["group"], road["train_pixels"], road["train_images"]) == ("head", "900", "9")
    assert float(road["mean"]) == 42 and road["difference"] == ""
    [pole] = [r for r in rows if (r["metric"], r["class"], r["method"]) == ("Acc", "pole", "mine")]
    assert pole["mean"] == "" and pole["difference"] == ""


def test_metrics_of_groups(two):
    assert two.group_of_metric("mIoU head") == "head" and two.group_of_metric("mIoU") == ""
    assert two.group_of_metric("mAcc tail (m.s.)") == "tail"
    assert two.family_of_metric("mAcc tail (m.s.)") == "mAcc (m.s.)"


def test_other_test_sets_are_refused(tmp_path):
    def write_other(name, **others):
        write_run(tmp_path / name, {}, config={"MODEL": {"HEAD": name}}, **others)
        return str(tmp_path / name)

    base = write_other("base")
    for other, parts in (
        (write_other("prints", fingerprint="0" * 64), ["images or labels"]),
        (write_other("names", names=("road", "pole", "tree")), ["'tree'", "'pole'"]),
        (write_other("more", iou=(1, 2, 3, 4), names=("road", "tree", "pole", "x")), ["3 and 4"]),
        (write_other("set", dataset="other_val"), ["toy_val", "other_val"]),
    ):
        with raises_naming(ValueError, base, other, *parts) as info:
            compared(base, other)
        assert "same test set" in str(info.value)


def test_the_test_set_can_be_named(tmp_path):
    write_run(tmp_path, {"mIoU": 10})
    write_run(tmp_path, {"mIoU": 20}, dataset="other_val")
    assert compared(tmp_path).metrics["mIoU"].spreads[0].mean in (10, 20)
    assert compared(tmp_path, dataset="toy_val").metrics["mIoU"].spreads[0].mean == 10
    assert compared(tmp_path, dataset="other_val").metrics["mIoU"].spreads[0].mean == 20
    with raises_naming(ValueError, "third_val", "--dataset"):
        compared(tmp_path, dataset="third_val")


def test_what_was_not_trained_to_the_end_is_said(tmp_path):
    write_run(tmp_path / "a", {}, iteration=5)
    write_run(tmp_path / "b", {}, config={"MODEL": {"HEAD": "b"}}, seed=1)
    [_, note] = compared(tmp_path / "a", tmp_path / "b").notes
    assert "after 5 of 10 iterations" in note
    mixed = compared(f"all={tmp_path}").notes
    assert mixed[0] == "The runs of all have different configs: MODEL.HEAD."
