# SPDX-License-Identifier: Apache-2.0
"""JPEGs decoded at a part of their size: the same windows and labels, nearly the same pixels."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng
from PIL import Image

from longtail.data.formats.images import read_image, read_reduced
from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.data.mappers.random_window import RandomWindow
from longtail.data.mappers.resizing import ResizedWindow
from longtail.data.mappers.sem_seg import SemSegDatasetMapper
from tests.data.label_maps import save_labels
from tests.messages import raises_naming
from tests.tiny import tiny_config
from tests.tiny_classification import classification_config

KEY = "INPUT.REDUCED_DECODING"
HEIGHT, WIDTH = 301, 407  # no r divides them
LENGTH, AMPLITUDE = 200, 100


def waves(size=(HEIGHT, WIDTH)):
    """Cosines of a wavelength of 200 pixels, one direction a channel."""
    y, x = (2 * np.pi * np.arange(side) / LENGTH for side in size)
    down, right = np.broadcast_to(y[:, None], size), np.broadcast_to(x, size)
    phases = np.stack([down, right, (down + right) / 2], axis=2)
    return np.rint(128 + AMPLITUDE * np.cos(phases)).astype(np.uint8)


def save(path, pixels, **options):
    """Write a JPEG, without subsampled colours unless told otherwise."""
    Image.fromarray(pixels).save(path, "JPEG", **{"quality": 95, "subsampling": 0} | options)
    return str(path)


@pytest.mark.parametrize("size", [(97, 131), (101, 64), (9, 300)], ids=str)
@pytest.mark.parametrize(
    ("shrinking", "expected"),
    [(0.4, 1), (1.99, 1), (2, 2), (3.99, 2), (4, 4), (7.9, 4), (8, 8), (50, 8)],
)
def test_pixels_are_those_of_pillows_draft(tmp_path, size, shrinking, expected):
    """libjpeg's, with the same number of them: ceil(H / r) x ceil(W / r)."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = save(tmp_path / "a.jpg", noise, subsampling=2)
    with Image.open(file) as image:
        image.draft("RGB", (size[1] // expected, size[0] // expected))
        drafted = np.asarray(image)
    assert drafted.shape[:2] == tuple(int(np.ceil(side / expected)) for side in size)
    pixels, reduction = read_reduced(file, "RGB", shrinking)
    assert reduction == expected
    np.testing.assert_array_equal(pixels, drafted)
    np.testing.assert_array_equal(read_reduced(file, "BGR", shrinking)[0], drafted[..., ::-1])


def turned(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"pixels": pixels, "exif": exif}


OTHERS = {
    "turned": lambda path: save(path, **turned(waves())),
    "grey": lambda path: save(path, waves()[..., 0]),
    "CMYK": lambda path: Image.fromarray(waves()).convert("CMYK").save(path, "JPEG"),
    "PNG": lambda path: Image.fromarray(waves()).save(path, "PNG"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_read_in_full(tmp_path, kind):
    OTHERS[kind](tmp_path / "a.jpg")
    pixels, reduction = read_reduced(tmp_path / "a.jpg", "RGB", 8)
    assert reduction == 1
    np.testing.assert_array_equal(pixels, read_image(tmp_path / "a.jpg", "RGB"))


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    file = tmp_path / "a.jpg"
    save(file, waves())
    file.write_bytes(file.read_bytes()[:-3000])
    with raises_naming(ValueError, "a.jpg", "truncated", "fetch it again"):
        read_reduced(file, "RGB", 2)


# Levels from one pixel of the ramps to the next.
SLOPE = 2


def reduced_ramps(size, reduction):
    """Ramps down and across, the means of cells of r x r pixels, which are whole numbers.

    Cells at the end are those of a ramp that goes on.
    """
    down, right = (
        SLOPE * (reduction * np.arange(-(-side // reduction)) + (reduction - 1) / 2)
        for side in size
    )
    assert max(down[-1], right[-1]) <= 255
    channels = np.meshgrid(down, right, np.zeros(1), indexing="ij")
    return np.concatenate(channels, axis=2).astype(np.uint8)


def off_the_ramp(found, axis, start, length, resized):
    """What pixels differ from the ramp at start + (i + 0.5) length / resized - 0.5."""
    at = start + (np.arange(found.shape[axis]) + 0.5) * length / resized - 0.5
    return np.abs(found[..., axis] - SLOPE * at.reshape([-1, 1] if axis == 0 else [1, -1]))


# Two roundings; and the samples of a triangle, of half the width s in [1, 2] pixels, which have
# their centre of mass up to 0.086 pixels from its middle, here of r pixels of the image.
def tolerance(kind, reduction):
    return 1.0 if kind == "opencv" else 1.0 + 0.09 * reduction * SLOPE


@pytest.mark.parametrize("kind", ["opencv", "pillow"])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(97, 125), (120, 99), (113, 113)], ids=str)
def test_windows_stay_where_they_are(kind, reduction, size):
    """Interpolation of ramps gives their value at the place of the pixel, in the whole image.

    Where a side is taken for r ceil(H / r), the far end is off by up to r - 1 pixels. Borders,
    where filters are cut off, are left out.
    """
    y, x = 1, 2
    resized = tuple(int(side / reduction / 1.3) for side in size)
    window = ResizedWindow(size, resized, (y, x, resized[0] - 2, resized[1] - 3), kind)
    assert reduction <= window.shrinking < 2 * reduction
    found = window.apply_reduced(reduced_ramps(size, reduction), reduction)
    assert found.shape == (resized[0] - 2, resized[1] - 3, 3)
    for axis, first in ((0, y), (1, x)):
        pixel = size[axis] / resized[axis]
        away = off_the_ramp(found.astype(float), axis, first * pixel, pixel, 1)
        assert away.max() <= tolerance(kind, reduction)


def test_the_side_that_shrinks_least_decides():
    """Half of the height and a third of the width; 90 by 60 pixels to a square of 30."""
    assert ResizedWindow((100, 300), (50, 100), (0, 0, 9, 9), "opencv").shrinking == 2
    window = RandomWindow(30, (0.1, 1.0), flip=False, color_jitter=0.0)
    assert window.shrinking((5, 6, 90, 60)) == window.shrinking((5, 6, 60, 90)) == 2


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("box", [(17, 31, 79, 90), (3, 5, 95, 73), (42, 0, 79, 101)], ids=str)
def test_windows_of_images_stay_where_they_are(reduction, box):
    """The same of the classification mapper's windows, whose borders cut filters off.

    A window that is moved to whole pixels of what was decoded is off by up to r / 2 pixels.
    """
    side = int(min(box[2:]) / reduction)
    window = RandomWindow(side, (0.1, 1.0), flip=False, color_jitter=0.0)
    assert reduction <= window.shrinking(box) < 2 * reduction
    pixels = torch.from_numpy(reduced_ramps((121, 121), reduction)).permute(2, 0, 1)
    found = window.cut(pixels, box, reduction).permute(1, 2, 0).numpy().astype(float)
    assert found.shape == (side, side, 3)
    for axis in (0, 1):
        away = off_the_ramp(found, axis, box[axis], box[2 + axis], side)
        assert away[1:-1, 1:-1].max() <= tolerance("pillow", reduction)


@pytest.fixture
def record(tmp_path):
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], (HEIGHT, WIDTH))
    save_labels(tmp_path / "labels.png", labels)
    return {
        "file_name": save(tmp_path / "image.jpg", waves()),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "label": 0,
    }


def sem_seg(kind, low, high):
    def build(folder, *keys, is_train=True):
        sizes = ["INPUT.MIN_SIZE_TRAIN", [HEIGHT], "INPUT.MAX_SIZE_TRAIN", 1000]
        sizes += ["INPUT.RESIZE_SCALE_RANGE", [low, high], "INPUT.CROP.SIZE", [24, 24]]
        cfg = tiny_config(folder, [*sizes, "INPUT.RESIZE_FILTER", kind, *keys])
        return SemSegDatasetMapper(cfg, is_train=is_train)

    return build


def classification(low, high):
    def build(folder, *keys, is_train=True):
        cfg = classification_config(folder, ["INPUT.CLASSIFICATION.CROP_SCALE", [low, high], *keys])
        return ClassificationDatasetMapper(cfg, is_train=is_train)

    return build


# Every window shrinks by r or more, and less than 2 r, at r = 8 by up to 13; at r = 1 by less than
# 2. Given are parts of the side, and of the area of which windows are resized to a side of 32.
BUILDERS = {
    ("opencv", 1): sem_seg("opencv", 0.51, 1.5),
    ("opencv", 2): sem_seg("opencv", 0.26, 0.49),
    ("opencv", 4): sem_seg("opencv", 0.13, 0.24),
    ("opencv", 8): sem_seg("opencv", 0.1, 0.12),
    ("pillow", 1): sem_seg("pillow", 0.51, 1.5),
    ("pillow", 2): sem_seg("pillow", 0.26, 0.49),
    ("pillow", 4): sem_seg("pillow", 0.13, 0.24),
    ("pillow", 8): sem_seg("pillow", 0.1, 0.12),
    ("images", 1): classification(0.01, 0.03),
    ("images", 2): classification(0.06, 0.08),
    ("images", 4): classification(0.24, 0.3),
    ("images", 8): classification(0.9, 1.0),
}
PLAIN = ["INPUT.RANDOM_FLIP", "none", "INPUT.PHOTOMETRIC", False]
PLAIN += ["INPUT.CLASSIFICATION.COLOR_JITTER", 0.0]


def mapped(mapper, record, seed):
    """The result, and the next number of each generator."""
    seed_all_rng(seed)
    found = mapper(dict(record))
    return found, (np.random.random(), torch.rand(1).item(), random.random())  # noqa: NPY002


def pairs(build, folder, record, keys=(), seeds=range(6)):
    """Results without and with the key, of which all but the image is compared."""
    whole, reduced = (build(folder, *keys, KEY, on) for on in (False, True))
    for seed in seeds:
        (expected, after), (found, after_too) = (mapped(m, record, seed) for m in (whole, reduced))
        assert after == after_too and found.keys() == expected.keys()
        images = [result.pop("image").int() for result in (expected, found)]
        assert images[0].shape == images[1].shape
        if "sem_seg" in expected:
            assert torch.equal(found.pop("sem_seg"), expected.pop("sem_seg"))
        assert found == expected
        yield images


@pytest.mark.parametrize(("kind", "r"), [key for key in BUILDERS if key[1] > 1])
def test_the_difference_on_a_smooth_image(tmp_path, record, kind, r):
    """Below what the steps add at most, in grey levels.

    Of a cosine, f'' = A (2 pi / L)^2 = 0.1 at the crest, 2 / pi of it in the mean, in each of two
    directions. Interpolation between pixels that are r apart misses r^2 f'' / 8; the mean over
    cells of r adds r^2 f'' / 24, and a triangle of half the width s, by which a window shrinks,
    s^2 f'' / 12, at most in one of the two results. Rounding adds 0.5: each of four roundings, of
    pixels that are decoded and resized, is 0.25 off in the mean, and the signs differ. Together
    0.75, 1.5 and 3.6 levels; a shift by one pixel would add 2.
    """
    curvature = AMPLITUDE * (2 * np.pi / LENGTH) ** 2
    shrinking = {2: 4, 4: 8, 8: 13}[r]
    bound = 2 * 2 / np.pi * curvature * (r**2 / 8 + r**2 / 24 + shrinking**2 / 12) + 0.5
    found = pairs(BUILDERS[kind, r], tmp_path, record, PLAIN)
    away = torch.stack([(a - b).abs().float().mean() for a, b in found])
    assert (away > 0).all() and away.mean() < bound


@pytest.mark.parametrize("kind", ["opencv", "pillow", "images"])
def test_windows_that_shrink_less_than_by_two_are_equal(tmp_path, record, kind):
    """With flips and colours."""
    for whole, reduced in pairs(BUILDERS[kind, 1], tmp_path, record):
        assert torch.equal(whole, reduced)


@pytest.mark.parametrize("kind", ["opencv", "images"])
def test_the_same_is_drawn_with_flips_and_colours(tmp_path, record, kind):
    """Labels, sizes and what is drawn next are compared by ``pairs``."""
    assert all((a != b).any() for a, b in pairs(BUILDERS[kind, 4], tmp_path, record))


@pytest.mark.parametrize("kind", ["opencv", "images"])
@pytest.mark.parametrize("form", OTHERS)
def test_other_files_give_what_they_gave(tmp_path, record, kind, form):
    OTHERS[form](record["file_name"])
    if form == "turned":
        save_labels(tmp_path / "labels.png", np.zeros((WIDTH, HEIGHT)))
    for whole, reduced in pairs(BUILDERS[kind, 4], tmp_path, record, seeds=range(2)):
        assert torch.equal(whole, reduced)


@pytest.mark.parametrize("kind", ["opencv", "images"])
def test_in_testing_it_is_never_used(tmp_path, record, kind):
    small = ["INPUT.MIN_SIZE_TEST", 30, "INPUT.CLASSIFICATION.TEST_RESIZE", 32]
    whole, reduced = (
        BUILDERS[kind, 4](tmp_path, *small, KEY, on, is_train=False)(record)["image"]
        for on in (False, True)
    )
    assert torch.equal(whole, reduced)


def test_the_whole_image_is_resized_without_crops(tmp_path, record):
    for whole, reduced in pairs(
        BUILDERS["opencv", 2], tmp_path, record, [*PLAIN, "INPUT.CROP.ENABLED", False], range(2)
    ):
        assert (whole - reduced).abs().float().mean() < 0.75


@pytest.mark.parametrize("form", ["sem_seg", "images"])
def test_a_header_that_is_not_true(tmp_path, record, form):
    """Half of the rows: windows are those of the size that it tells of, which labels must have."""
    data = bytearray(Path(record["file_name"]).read_bytes())
    start = data.index(b"\xff\xc0") + 5
    assert int.from_bytes(data[start : start + 2], "big") == HEIGHT
    data[start : start + 2] = (HEIGHT // 2).to_bytes(2, "big")
    Path(record["file_name"]).write_bytes(data)
    if form == "images":
        for whole, reduced in pairs(BUILDERS["images", 2], tmp_path, record, seeds=range(2)):
            assert whole.shape == reduced.shape == (3, 32, 32)
        return
    with raises_naming(ValueError, "labels.png", f"{WIDTH}x{HEIGHT}", f"{WIDTH}x{HEIGHT // 2}"):
        BUILDERS["opencv", 2](tmp_path, KEY, True)(record)


def test_what_is_refused(tmp_path, record):
    with raises_naming(ValueError, KEY, "INPUT.CLASSIFICATION.IN_MEMORY"):
        BUILDERS["images", 2](tmp_path, KEY, True, "INPUT.CLASSIFICATION.IN_MEMORY", True)
    save_labels(Path(record["sem_seg_file_name"]), np.full((HEIGHT, WIDTH), 77))
    with raises_naming(ValueError, "labels.png", "77", "0..2"):
        BUILDERS["opencv", 2](tmp_path, KEY, True)(record)
    record.pop("sem_seg_file_name")
    with raises_naming(ValueError, "image.jpg", "sem_seg_file_name"):
        BUILDERS["opencv", 2](tmp_path, KEY, True)(record)
