# SPDX-License-Identifier: Apache-2.0
"""The mapper of image classification: geometry, color, channel order, errors, randomness."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.utils.env import seed_all_rng
from PIL import Image
from torchvision.transforms import v2

from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.data.mappers.random_window import CROP_RATIO, RandomWindow
from longtail.data.samplers import ClassBalancedTrainingSampler
from tests.tiny_classification import classification_config

HEIGHT, WIDTH = 40, 60
OPTIONS = "INPUT.CLASSIFICATION."


@pytest.fixture
def record(tmp_path):
    """An image of noise, which tells one pixel from another."""
    array = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "image.png")
    return {"file_name": str(tmp_path / "image.png"), "image_id": 7, "label": 2}


@pytest.fixture
def build(tmp_path):
    """A function that gives a mapper, by default one that leaves colors and directions."""

    def get(*overrides, is_train=True):
        plain = [f"{OPTIONS}COLOR_JITTER", 0.0, "INPUT.RANDOM_FLIP", "none"]
        cfg = classification_config(tmp_path, [*plain, *overrides])
        return ClassificationDatasetMapper(cfg, is_train=is_train)

    return get


def pixels(record):
    return torch.from_numpy(np.array(Image.open(record["file_name"]))).permute(2, 0, 1)


def test_the_mapped_record(record, build):
    before = dict(record)
    for is_train in (True, False):
        mapped = build(is_train=is_train)(record)
        assert record == before
        image = mapped.pop("image")
        assert mapped == before
        assert image.dtype == torch.uint8 and image.shape == (3, 32, 32)


def test_testing_cuts_out_the_center(record, build):
    """Where the shorter side has TEST_RESIZE pixels already, nothing is interpolated."""
    mapped = build(f"{OPTIONS}TEST_RESIZE", HEIGHT, is_train=False)(record)
    top, left = (HEIGHT - 32) // 2, (WIDTH - 32) // 2
    expected = pixels(record)[:, top : top + 32, left : left + 32]
    assert torch.equal(mapped["image"], expected)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (64, 64)], ids=str)
def test_testing_resizes_the_shorter_side(tmp_path, build, size):
    """Against Pillow: bilinear, with its support as wide as a pixel of the result."""
    array = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "other.png")
    height, width = (36 * side // min(size) for side in size)
    resized = Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 32) / 2), round((height - 32) / 2)
    expected = np.array(resized.crop((left, top, left + 32, top + 32)))
    mapped = build(f"{OPTIONS}TEST_RESIZE", 36, is_train=False)(
        {"file_name": str(tmp_path / "other.png")}
    )
    assert np.array_equal(mapped["image"].permute(1, 2, 0).numpy(), expected)


def test_training_crops(tmp_path, build):
    """Of a ramp the crop's place and size can be read off; here of half to all of the area."""
    column = np.broadcast_to(np.arange(240, dtype=np.uint8), (240, 240))
    ramp = np.stack([column, column.T, np.zeros_like(column)], axis=2)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    mapper = build(f"{OPTIONS}CROP_SCALE", [0.5, 1.0])
    seed_all_rng(0)
    shapes = []
    for _ in range(200):
        image = mapper({"file_name": str(tmp_path / "ramp.png"), "label": 0})["image"].float()
        # 31 steps between the centers of the outer of 32 cells; interpolation rounds.
        width, height = ((image[c].max() - image[c].min()).item() * 32 / 31 for c in (0, 1))
        shapes.append((width, height))
    area = [w * h / 240**2 for w, h in shapes]
    ratio = [w / h for w, h in shapes]
    assert 0.47 < min(area) < 0.55 and 0.9 < max(area) < 1.03
    assert 0.72 < min(ratio) < 0.85 and 1.2 < max(ratio) < 1.38


def test_a_crop_of_everything_is_the_resized_image(tmp_path, build):
    array = np.random.default_rng(1).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "square.png")
    transform = v2.RandomResizedCrop(32, scale=(1.0, 1.0), ratio=(1.0, 1.0), antialias=True)
    mapper = build()
    mapper.transform = transform
    mapped = mapper({"file_name": str(tmp_path / "square.png"), "label": 0})
    expected = Image.fromarray(array).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(mapped["image"].permute(1, 2, 0).numpy(), np.array(expected))


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("jitter", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(90, 70), (20, 24), (1, 1), (3, 200)], ids=str)
def test_windows_are_torchvisions(flip, jitter, shape):
    """Every value is that of torchvision's transforms, Pillow's colors, with the same seed.

    Of images that shrink, grow, are a pixel, or too narrow for any drawn window; and the generator
    is left where theirs leave it.
    """
    array = np.random.default_rng(2).integers(0, 256, (*shape, 3)).astype(np.uint8)
    image = torch.from_numpy(array).permute(2, 0, 1)
    steps = [v2.RandomResizedCrop(32, scale=(0.1, 1.0), ratio=CROP_RATIO, antialias=True)]
    steps += [v2.RandomHorizontalFlip()] * flip
    if jitter:
        colors = v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter)
        steps += [v2.ToPILImage(), colors, v2.PILToTensor()]
    window = RandomWindow(32, (0.1, 1.0), flip=flip, color_jitter=jitter)
    for seed in range(20):
        torch.manual_seed(seed)
        expected, next_drawn = v2.Compose(steps)(image), torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(window(image), expected) and torch.equal(torch.rand(1), next_drawn)


def test_windows_call_nothing_that_torchvision_0_18_lacks():
    """setup.py's oldest; there these two are private."""
    methods = (RandomWindow.draw, RandomWindow.cut, RandomWindow._window)
    called = {name for method in methods for name in method.__code__.co_names}
    assert "get_params" in called and not called & {"make_params", "transform"}


@pytest.mark.parametrize(("flip", "share"), [("horizontal", 0.5), ("none", 0.0)])
def test_flips(tmp_path, build, flip, share):
    ramp = np.broadcast_to(np.arange(0, 240, 5, dtype=np.uint8)[:, None], (48, 48, 3))
    Image.fromarray(ramp.copy()).save(tmp_path / "ramp.png")
    mapper = build("INPUT.RANDOM_FLIP", flip)
    seed_all_rng(0)
    n = 400
    images = (mapper({"file_name": str(tmp_path / "ramp.png"), "label": 0}) for _ in range(n))
    flipped = sum(int(m["image"][0, 0, 0] > m["image"][0, 0, -1]) for m in images)
    # Binomial: within 4.5 standard deviations with probability 1 - 7e-6.
    assert abs(flipped - n * share) <= 4.5 * (n * share * (1 - share)) ** 0.5


def test_color_jitter(tmp_path, build):
    """Of a plain gray image only the brightness can change: by up to the factor 1 +- 0.4."""
    Image.new("RGB", (40, 40), (100, 100, 100)).save(tmp_path / "gray.png")
    mapper = build(f"{OPTIONS}COLOR_JITTER", 0.4)
    seed_all_rng(0)
    values = []
    for _ in range(300):
        image = mapper({"file_name": str(tmp_path / "gray.png"), "label": 0})["image"]
        assert (image == image[0, 0, 0]).all()
        values.append(image[0, 0, 0].item())
    assert 59 <= min(values) < 65 and 135 < max(values) <= 141
    assert 95 < np.mean(values) < 105


def test_color_jitter_changes_the_saturation_of_colors(tmp_path, build):
    Image.new("RGB", (40, 40), (150, 100, 50)).save(tmp_path / "color.png")
    mapper = build(f"{OPTIONS}COLOR_JITTER", 0.4)
    seed_all_rng(0)
    chroma = set()
    for _ in range(50):
        r, _, b = mapper({"file_name": str(tmp_path / "color.png"), "label": 0})["image"][:, 0, 0]
        chroma.add(round((int(r) - int(b)) / max(int(r), 1), 1))
    assert len(chroma) > 2


@pytest.mark.parametrize("is_train", [True, False])
def test_order_of_the_channels(record, build, is_train):
    """Whatever the model wants, the random numbers and the colors are the same."""
    images = []
    for order in ("RGB", "BGR"):
        seed_all_rng(0)
        options = ("INPUT.FORMAT", order, f"{OPTIONS}COLOR_JITTER", 0.4)
        images.append(build(*options, is_train=is_train)(record)["image"])
    assert torch.equal(images[0], images[1].flip(0)) and not torch.equal(*images)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_every_kind_of_image_becomes_a_color_image(tmp_path, build, mode):
    array = np.full((40, 40, 3), (200, 100, 0), dtype=np.uint8)
    image = Image.fromarray(array).convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    mapped = build(f"{OPTIONS}TEST_RESIZE", 40, is_train=False)({"file_name": str(path)})["image"]
    expected = np.array(image.convert("RGB"))[4:36, 4:36]
    assert np.array_equal(mapped.permute(1, 2, 0).numpy(), expected)
    if mode == "CMYK":
        assert mapped[:, 0, 0].tolist() == [200, 100, 0]


def test_a_missing_file(record, build, tmp_path):
    record["file_name"] = str(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"nowhere.png is missing: prepare the data set"):
        build()(record)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_broken_file(record, build, tmp_path, share):
    content = (tmp_path / "image.png").read_bytes()
    (tmp_path / "image.png").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"image.png cannot be read as an image") as info:
        build()(record)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("label", [3, -1, None])
def test_a_label_that_is_no_class(record, build, label):
    record["label"] = label
    with pytest.raises(ValueError, match=rf"image.png has the label {label}, expected 0..2"):
        build()(record)
    # In testing the evaluator has the labels.
    build(is_train=False)(record)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (f"{OPTIONS}SIZE", 64, "TEST_RESIZE >= SIZE, .* got 64 and 32"),
        (f"{OPTIONS}SIZE", 0, "SIZE must be >= 1"),
        (f"{OPTIONS}CROP_SCALE", [0.0, 1.0], r"CROP_SCALE must be two ascending .* \[0.0, 1.0\]"),
        (f"{OPTIONS}CROP_SCALE", [0.9, 0.1], "CROP_SCALE must be two ascending"),
        (f"{OPTIONS}COLOR_JITTER", 1.5, r"COLOR_JITTER must be in \[0, 1\], got 1.5"),
        ("INPUT.RANDOM_FLIP", "vertical", "RANDOM_FLIP must be one of .* got 'vertical'"),
        ("INPUT.FORMAT", "L", r"INPUT.FORMAT must be one of \['RGB', 'BGR'\], got 'L'"),
    ],
    ids=str,
)
def test_bad_options(build, key, value, message):
    with pytest.raises(ValueError, match=message):
        build(key, value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_seed_decides(record, build, tmp_path, num_workers):
    """In the process and in workers, each of which draws other numbers."""
    mapper = build(f"{OPTIONS}COLOR_JITTER", 0.4)
    options = {"num_workers": num_workers, "total_batch_size": 4, "aspect_ratio_grouping": False}

    def first(seed):
        seed_all_rng(seed)
        loader = build_detection_train_loader(
            [record], mapper=mapper, sampler=ClassBalancedTrainingSampler([[0]], seed=0), **options
        )
        batches = itertools.islice(loader, 2)
        return torch.stack([item["image"] for batch in batches for item in batch])

    images = first(3)
    assert torch.equal(images, first(3)) and not torch.equal(images, first(4))
    assert len({image.numpy().tobytes() for image in images}) == 8
