# SPDX-License-Identifier: Apache-2.0
"""Reports of image classification against plain loops."""

import math

import numpy as np
import pytest
import torch

from longtail.evaluation.classification.metrics import label_ranks
from longtail.evaluation.classification.report import LAYOUT, build_report, format_table
from longtail.evaluation.report import flat_results
from tests.evaluation.classification.scores import K, place, scores_and_labels

NAMES = [f"class{c}" for c in range(K)]


def report(counts=None, groups=None):
    scores, labels = scores_and_labels()
    return build_report(label_ranks(scores, labels), labels, NAMES, counts or {}, groups or {})


def test_figures():
    scores, labels = scores_and_labels()
    pairs = [(place(s, y), y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    groups = {"many": [0, 1], "medium": [3], "few": [3, 4, 5, 6, 2]}
    groups["few"].remove(3)
    given = report({"train_images": range(0, 70, 10)}, groups)
    assert given["num_images"] == 60
    assert given["top1"] == pytest.approx(100 * sum(r < 1 for r, _ in pairs) / 60, abs=1e-12)
    assert given["top5"] == pytest.approx(100 * sum(r < 5 for r, _ in pairs) / 60, abs=1e-12)
    assert given["top1"] < given["top5"] < 100
    acc = {}
    for c in range(K):
        ranks = [r for r, y in pairs if y == c]
        row = given["classes"][c]
        assert (row["index"], row["name"], row["train_images"]) == (c, f"class{c}", 10 * c)
        assert row["test_images"] == len(ranks)
        if ranks:
            acc[c] = 100 * sum(r == 0 for r in ranks) / len(ranks)
            assert row["acc"] == pytest.approx(acc[c], abs=1e-12)
        else:
            assert c == 3 and math.isnan(row["acc"])
    assert given["mean_acc"] == pytest.approx(sum(acc.values()) / 6, abs=1e-12)
    for group, classes in groups.items():
        values = [acc[c] for c in classes if c in acc]
        mean = given["groups"][group]["mean_acc"]
        if values:
            assert mean == pytest.approx(sum(values) / len(values), abs=1e-12)
        else:
            assert group == "medium" and math.isnan(mean)
        assert given["groups"][group]["num_classes"] == len(classes)
        assert {given["classes"][c]["group"] for c in classes} == {group}


def test_on_balanced_images_the_mean_over_classes_is_top1():
    labels = torch.arange(K).repeat(9)
    ranks = torch.from_numpy(np.random.default_rng(0).integers(0, 3, 9 * K))
    given = build_report(ranks, labels, NAMES, {}, {})
    assert given["mean_acc"] == pytest.approx(given["top1"], abs=1e-12)


def test_without_training_counts():
    given = report()
    assert given["groups"] == {}
    assert list(given["classes"][0]) == ["index", "name", "group", "test_images", "acc"]
    assert all(row["group"] is None for row in given["classes"])


def test_fewer_than_five_classes():
    given = build_report(torch.tensor([2, 0, 1]), torch.tensor([0, 1, 2]), ["a", "b", "c"], {}, {})
    assert given["top5"] == 100 and given["top1"] == pytest.approx(100 / 3)


def test_flat_results():
    given = report(groups={"many": [0, 1, 2, 3], "few": [4, 5, 6]})
    flat = flat_results(given, LAYOUT)
    assert list(flat)[:5] == ["top1", "top5", "mean_acc", "mean_acc-many", "mean_acc-few"]
    assert [flat[f"acc-class{c}"] for c in (0, 1)] == [r["acc"] for r in given["classes"][:2]]
    assert len(flat) == 5 + K and all(isinstance(value, float) for value in flat.values())


def test_table():
    ranks, labels = torch.tensor([0, 6, 0, 0, 5]), torch.tensor([0, 0, 1, 1, 2])
    groups = {"many": [0], "few": [1, 2], "none": [3]}
    given = build_report(ranks, labels, NAMES, {"train_images": range(K)}, groups)
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in format_table(given).splitlines()]
    assert rows[0] == ["classes", "number", "mean_acc"]
    # Classes 0, 1 and 2: 1 of 2, 2 of 2, 0 of 1.
    assert rows[2:6] == [
        ["all", "7", "50.00"],
        ["many", "1", "50.00"],
        ["few", "2", "50.00"],
        ["none", "1", "nan"],
    ]
    assert "top1 60.00, top5 60.00" in format_table(given)
