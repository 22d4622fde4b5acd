# SPDX-License-Identifier: Apache-2.0
"""Generated scenes with several hundred categories: counts, hues, files; scenes without hues."""

import colorsys
import json
import math
from collections import Counter

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.commands import generate
from longtail.data.datasets.lvis import register_lvis_synthetic
from longtail.data.formats.generated import HUES, hued_classes
from longtail.data.statistics.groups import frequency_letter
from longtail.data.synthetic import (
    LVIS_CONFIG,
    HuedConfig,
    SyntheticConfig,
    generate_scene,
    plan_hued_split,
    plan_split,
    scene_generator,
    write_lvis_dataset,
)
from longtail.data.synthetic.scene import colorize

# Of two scenes, noted from the version before hues: class and pixels of each object, mean color.
LVIS_OBJECTS = [(8, 829), (8, 1054), (9, 399), (9, 276), (13, 337), (13, 605), (13, 184)]
LVIS_COLORS, LVIS_IGNORED = (108.015, 70.035, 86.633), 747
PLANNED = [0, 1, 8, 15]
OBJECTS = [(8, 984), (8, 409), (15, 1568), (15, 590), (8, 1287), (8, 656), (8, 447), (8, 452)]
COLORS = (110.270, 103.361, 67.776)
SMALL = HuedConfig(10, (64, 64), share=0.5, imbalance=6, min_val_images=2)


def test_the_default_has_a_long_tail_of_400_categories():
    config = HuedConfig()
    train = (plan_hued_split(config, 2400, "train") > 0).sum(axis=0)[8:]
    # round(192 * 192 ** (-c / 399)).
    expected = [round(192 * math.exp(-math.log(192) * c / 399)) for c in range(400)]
    assert train.tolist() == expected and (train[0], train[-1]) == (192, 1)
    assert Counter(frequency_letter(n) for n in expected) == {"r": 179, "c": 171, "f": 50}
    val = (plan_hued_split(config, 600, "val") > 0).sum(axis=0)[8:]
    # A quarter of the images, and no category in fewer than 6.
    assert (val.max(), val.min()) == (48, 6) and np.all(np.diff(val) <= 0)


def test_every_image_has_two_kinds_of_ground():
    plan = plan_hued_split(SMALL, 40, "train")
    assert plan.shape == (40, 18)
    assert np.all((plan[:, :8] > 0).sum(axis=1) == 2)
    np.testing.assert_allclose(plan[:, :8].sum(axis=1), 1, atol=1e-12)
    assert set(np.unique(plan[:, 8:])) == {0, 1}
    assert not np.array_equal(plan, plan_hued_split(HuedConfig(10, seed=1), 40, "train"))


@pytest.mark.parametrize("name", HUES)
def test_objects_have_the_hue_of_their_category(name):
    """Its distance around the circle is below half of that to the next one, 1 / 14."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        for grey in (0.0, 0.5, 1.0):
            pixel = colorize(np.full((1, 1), grey), rng, name)[0, 0]
            hue, saturation, _ = colorsys.rgb_to_hsv(*pixel)
            distance = abs((hue - HUES.index(name) / 7 + 0.5) % 1 - 0.5)
            assert distance < 1 / 14 and saturation > 0.4


def test_more_classes_than_a_byte_counts():
    """400 categories in one process of drawing: a late one keeps its number."""
    config = HuedConfig(image_size=(96, 96))
    areas = np.zeros(408)
    areas[[0, 1, 255, 407]] = (0.5, 0.5, 0.05, 0.05)
    scene = generate_scene(config, areas, np.random.default_rng(0))
    assert {item.class_id for item in scene.instances} == {255, 407}
    assert scene.sem_seg.dtype == np.uint16
    assert set(np.unique(scene.sem_seg)) == {0, 1, 255, 407, 2**16 - 1}
    for item in scene.instances:
        inside = scene.sem_seg[item.mask]
        assert set(inside.tolist()) <= {item.class_id, 2**16 - 1}


def test_files_and_registration(tmp_path, root):
    meta = write_lvis_dataset(tmp_path / "lvis_hued", 12, 4, SMALL)
    assert meta["categories"] == hued_classes(10) and meta["config"]["share"] == 0.5
    # round(12 * 0.5 * 6 ** (-c / 9)).
    assert meta["image_count"]["train"] == [6, 5, 4, 3, 3, 2, 2, 1, 1, 1]
    assert meta["image_count"]["val"] == [2] * 10
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert write_lvis_dataset(tmp_path / "lvis_hued", 12, 4, SMALL) == meta
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    # The default's classes until there are files, then theirs.
    assert len(MetadataCatalog.get("lvis_hued_val").thing_classes) == 400
    with pytest.raises(FileNotFoundError, match="longtail generate --hued"):
        DatasetCatalog.get("lvis_hued_val")
    register_lvis_synthetic(str(tmp_path))
    assert len(DatasetCatalog.get("lvis_hued_train")) == 12
    assert MetadataCatalog.get("lvis_hued_train").thing_classes == meta["categories"]
    register_lvis_synthetic(str(root))


def test_command(root, capsys):
    options = "--hued --num-train 20 --num-val 8 --size 64 --classes 5 --imbalance 2 --workers 1"
    generate.main(options.split())
    out = capsys.readouterr().out
    assert "rare: 5 categories" in out and f"folder: {root}/lvis_hued" in out
    content = json.loads((root / "lvis_hued" / "lvis_synthetic_val.json").read_text())
    assert [c["name"] for c in content["categories"]] == hued_classes(5)
    for wrong, message in (
        (("--classes", "449"), "--classes must be from 2 to 448, got 449"),
        (("--imbalance", "0.5"), "--imbalance must be at least 1, got 0.5"),
        (("--size", "20"), "--size must be .* at least 48 pixels"),
        (("--num-val", "5"), "5 images of val are too few: .* at least 6"),
        (("--seed", "-1"), "seed must not be negative"),
    ):
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            generate.main([*options.split(), *wrong])
    with pytest.raises(SystemExit, match="choose one of --lvis, --hued"):
        generate.main(["--hued", "--lvis"])


@pytest.mark.parametrize("values", [{"share": 0}, {"share": 1.5}, {"min_val_images": 0}])
def test_values_out_of_range(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"{name} must be"):
        HuedConfig(**values)


def test_scenes_without_hues_are_as_before_there_were_any():
    """Object by object, and in the mean of the colors; noted from that version.

    Bytes are not compared: other builds of NumPy and OpenCV round otherwise.
    """
    areas = np.zeros(68)
    areas[[0, 5, 8, 9, 13]] = (0.6, 0.4, 0.05, 0.02, 0.03)
    scene = generate_scene(LVIS_CONFIG, areas, scene_generator(LVIS_CONFIG, "train", 3), 144)
    assert [(i.class_id, int(i.mask.sum())) for i in scene.instances] == LVIS_OBJECTS
    np.testing.assert_allclose(scene.image.mean((0, 1)), LVIS_COLORS, atol=0.05)
    assert scene.sem_seg.dtype == np.uint8 and (scene.sem_seg == 255).sum() == LVIS_IGNORED
    config = SyntheticConfig()
    row = plan_split(config, 120, "val")[3]
    assert np.flatnonzero(row).tolist() == PLANNED
    scene = generate_scene(config, row, scene_generator(config, "val", 3))
    assert [(i.class_id, int(i.mask.sum())) for i in scene.instances] == OBJECTS
    np.testing.assert_allclose(scene.image.mean((0, 1)), COLORS, atol=0.05)
