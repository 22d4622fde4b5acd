# SPDX-License-Identifier: Apache-2.0
"""longtail analyze-weights: Eq. 11 by hand."""

import json

import pytest
from disalign.commands import analyze_weights

from longtail.data.statistics.class_stats import ClassStats
from tests.tiny_classification import register_colors, unregister


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    yield register_colors("weights_train", tmp_path / "data", (4, 2, 1))
    unregister("weights_train")


def test_weights(images, tmp_path, capsys):
    analyze_weights.main([images, "--rho", "0", "1", "0.5", "--output", str(tmp_path)])
    values = json.loads((tmp_path / "weights.json").read_text())
    assert [row["training images"] for row in values["classes"]] == [4, 2, 1]
    of_rho = {rho: [row["weights"][rho] for row in values["classes"]] for rho in ("0", "1", "0.5")}
    assert of_rho["0"] == pytest.approx([1, 1, 1])
    # 3 (1/4, 1/2, 1) / (7/4).
    assert of_rho["1"] == pytest.approx([3 / 7, 6 / 7, 12 / 7])
    root = [0.5, 2**-0.5, 1]
    assert of_rho["0.5"] == pytest.approx([3 * w / sum(root) for w in root])
    assert ["1", "0.4286", "1.7143", "4.0"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    assert (tmp_path / "weights.png").is_file()


def test_what_is_counted():
    counts = {"image_count": [3, 2], "instance_count": [9, 4], "pixel_count": None}
    stats = ClassStats(("a", "b"), 5, **counts)
    assert (
        analyze_weights.study_weights("x", stats, [1.0]).values["classes"][0]["training instances"]
        == 9
    )
    stats = ClassStats(("a", "b"), 5, **{**counts, "pixel_count": [0, 70]})
    found = analyze_weights.study_weights("x", stats, [1.0]).values["classes"]
    assert [row["training pixels"] for row in found] == [70, 0]
    # What does not occur counts as one.
    assert found[1]["weights"]["1"] / found[0]["weights"]["1"] == pytest.approx(70)


@pytest.mark.parametrize("rho", [["-1"], ["nan"], ["1", "1"]])
def test_bad_rho(images, tmp_path, rho):
    with pytest.raises(SystemExit, match=r"error: .*rho"):
        analyze_weights.main([images, "--rho", *rho, "--output", str(tmp_path / "out")])
