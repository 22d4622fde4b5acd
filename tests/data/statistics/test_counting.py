# SPDX-License-Identifier: Apache-2.0
"""Counts of classes against plain loops, and what is wrong with bad data."""

import numpy as np
import pytest
from PIL import Image

from longtail.data.statistics.class_stats import ClassStats, compute_class_stats, get_class_stats
from tests.data.label_maps import (
    CLASSES,
    instance_record,
    random_labels,
    reference_counts,
    save_labels,
)
from tests.data.pngs import png


@pytest.mark.parametrize("num_workers", [None, 1, 3])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_counts_equal_a_plain_loop(register, tmp_path, mode, num_workers):
    maps = random_labels(1, 70)  # more than two tasks
    records = [save_labels(tmp_path / f"{i}.png", labels, mode) for i, labels in enumerate(maps)]
    name = register("toy_modes", records, stuff_classes=CLASSES, ignore_label=255)
    stats = compute_class_stats(name, num_workers)
    pixels, images = reference_counts(maps, len(CLASSES))
    assert stats.class_names == tuple(CLASSES)
    assert stats.num_images == 70
    assert stats.pixel_count.tolist() == pixels
    assert stats.image_count.tolist() == images
    assert stats.instance_count is None


@pytest.mark.parametrize(("bits", "expected"), [(1, [2, 4]), (2, [2, 1, 2, 1]), (4, [2, 1, 2, 1])])
def test_labels_of_few_bits(register, tmp_path, bits, expected):
    """They are counted as they stand in the file, not stretched to 0..255."""
    rows = [[0, 1, 1], [0, 1, 1]] if bits == 1 else [[0, 1, 2], [3, 2, 0]]
    (tmp_path / "0.png").write_bytes(png(rows, bits))
    record = {"file_name": "0.jpg", "sem_seg_file_name": str(tmp_path / "0.png")}
    name = register(f"toy_bits_{bits}", [record], stuff_classes=CLASSES, ignore_label=255)
    counts = compute_class_stats(name).pixel_count.tolist()
    assert counts == expected + [0] * (len(CLASSES) - len(expected))


def test_a_class_that_is_the_ignore_label_is_not_counted(register, tmp_path):
    record = save_labels(tmp_path / "0.png", np.array([[0, 0, 1], [1, 1, 2]]))
    name = register("toy_ignore_0", [record], stuff_classes=CLASSES, ignore_label=0)
    assert compute_class_stats(name).pixel_count.tolist() == [0, 3, 1, 0, 0]


def test_instances_without_label_maps(register):
    records = [
        instance_record("a.jpg", [1, 1, 0], crowd=[2]),
        instance_record("b.jpg", [1]),
        instance_record("c.jpg", []),
    ]
    stats = get_class_stats(register("toy_boxes", records, thing_classes=["cat", "dog", "cow"]))
    assert stats.pixel_count is None
    assert stats.pixel_imbalance_factor is None
    assert stats.instance_count.tolist() == [1, 3, 0]
    assert stats.image_count.tolist() == [1, 2, 0]
    assert stats.num_images == 3
    assert ClassStats.from_dict(stats.to_dict()) == stats


@pytest.mark.parametrize("things", [CLASSES, ["car"]])
def test_label_maps_with_instances(register, tmp_path, things):
    record = save_labels(tmp_path / "0.png", np.array([[0, 0, 3]]))
    record |= instance_record("0.jpg", [0, 0])
    name = register("toy_both", [record], stuff_classes=CLASSES, thing_classes=things)
    stats = compute_class_stats(name)
    assert stats.class_names == tuple(CLASSES)
    assert stats.pixel_count.tolist() == [2, 0, 0, 1, 0]
    assert stats.image_count.tolist() == [1, 0, 0, 1, 0]  # the label map decides
    if things == CLASSES:
        assert stats.instance_count.tolist() == [2, 0, 0, 0, 0]
    else:
        assert stats.instance_count is None


def test_bad_names_and_arguments(street, register):
    with pytest.raises(ValueError, match=r"'toy_stret' is not registered.*toy_street"):
        get_class_stats("toy_stret")
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        get_class_stats(street[0], num_workers=0)
    with pytest.raises(ValueError, match="'toy_empty' has no images"):
        compute_class_stats(register("toy_empty", [], stuff_classes=CLASSES))
    with pytest.raises(ValueError, match="'toy_bare' has no classes to count"):
        compute_class_stats(register("toy_bare", [{"file_name": "a"}], stuff_classes=CLASSES))
    wrong = register("toy_ids", [instance_record("a.jpg", [7])], thing_classes=["cat"])
    with pytest.raises(ValueError, match=r"a\.jpg has category_id 7, .* 1 names"):
        compute_class_stats(wrong)


def test_bad_label_files(street, cache):
    name, maps, files = street
    good = files[2].read_bytes()
    labels = maps[2].copy()
    labels[0, 0] = 5
    save_labels(files[2], labels)
    expected = rf"{files[2]}: label 5, but .* 5 classes \(labels 0 to 4\) and ignore label 255"
    with pytest.raises(ValueError, match=expected):
        get_class_stats(name)
    for damaged in (good[:60], good[:10], b""):
        files[2].write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{files[2]} cannot be read as an image"):
            get_class_stats(name)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(files[2])
    with pytest.raises(ValueError, match=f"{files[2]} has mode RGB"):
        get_class_stats(name)
    files[2].unlink()
    with pytest.raises(FileNotFoundError, match=f"{files[2]} is missing"):
        get_class_stats(name)
    with pytest.raises(FileNotFoundError, match=f"{files[2]} is missing"):
        compute_class_stats(name)
    assert not cache.exists()
