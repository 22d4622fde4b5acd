# SPDX-License-Identifier: Apache-2.0
"""Windows against the plain definition: the mean of the logits of all that see a pixel."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from PIL import Image
from torch import nn
from torch.nn import functional as F

from longtail.engine import SemanticSegmentorWithTTA, Trainer
from longtail.engine.inference.build import build_inference
from longtail.engine.inference.sliding_window import SlidingWindowInference, window_starts
from tests.messages import raises_naming
from tests.tiny import tiny_config
from tests.tiny_detection import detector_config

K = 3


class Pointwise(nn.Module):
    """Logits that depend on the pixel alone: windows cannot change them."""

    def forward(self, batched_inputs):
        outputs = []
        for inputs in batched_inputs:
            x = inputs["image"].double()
            outputs.append(
                {"sem_seg": resized(torch.stack([x[0], x[1] * x[2], -x.sum(0)]), inputs)}
            )
        return outputs


class Convolution(nn.Module):
    """Logits that depend on the borders of what the model sees, and on its size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, K, 5, padding=2, dtype=torch.float64)
        self.sizes = []

    def forward(self, batched_inputs):
        images = [inputs["image"].double() / 64 for inputs in batched_inputs]
        self.sizes += [tuple(image.shape[1:]) for image in images]
        # Padded and cropped again, as detectron2's segmentor does it.
        padded = ImageList.from_tensors(images, 8).tensor
        logits = self.conv(padded) + padded.mean(dim=(1, 2, 3), keepdim=True)
        return [
            {"sem_seg": resized(z[:, : x.shape[1], : x.shape[2]], inputs)}
            for z, x, inputs in zip(logits, images, batched_inputs, strict=True)
        ]


def resized(logits, inputs):
    size = (inputs["height"], inputs["width"])
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]


def make_record(height, width, output=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    output = output or (height, width)
    return {"image": image, "height": output[0], "width": output[1]}


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [
        (512, 640, 426, [0]),  # shorter than a window
        (640, 640, 426, [0]),
        (641, 640, 426, [0, 1]),
        (1066, 640, 426, [0, 426]),  # 426 + 640 = 1066
        (1067, 640, 426, [0, 426, 427]),
        (2048, 640, 426, [0, 426, 852, 1278, 1408]),  # 2048 - 640 = 1408 < 4 * 426
        (10, 4, 2, [0, 2, 4, 6]),
        (9, 4, 4, [0, 4, 5]),
        (1, 1, 1, [0]),
    ],
)
def test_the_grid_by_hand(length, window, stride, expected):
    assert window_starts(length, window, stride) == expected


@pytest.mark.parametrize("window", range(1, 9))
def test_windows_cover_a_side_and_stay_inside(window):
    for stride in range(1, window + 1):
        for length in range(1, 30):
            starts = window_starts(length, window, stride)
            seen = {i for start in starts for i in range(start, min(start + window, length))}
            assert seen == set(range(length))
            assert all(0 <= start <= max(length - window, 0) for start in starts)
            assert starts == sorted(set(starts))
            # No window too many.
            assert len(starts) == math.ceil(max(length - window, 0) / stride) + 1


@pytest.mark.parametrize("size", [(24, 40), (23, 17)])
def test_one_window_is_the_whole_image_bit_for_bit(size):
    model = Convolution().eval()
    record = make_record(*size, output=(31, 50))
    slide = SlidingWindowInference(model, (24, 40), (7, 9))
    assert torch.equal(slide([record])[0]["sem_seg"], model([record])[0]["sem_seg"])
    assert model.sizes == [size, size]


def test_windows_do_not_change_a_pointwise_model():
    record = make_record(37, 53)
    slide = SlidingWindowInference(Pointwise(), (16, 20), (11, 13))
    expected = Pointwise()([record])[0]["sem_seg"]
    torch.testing.assert_close(slide([record])[0]["sem_seg"], expected, atol=1e-10, rtol=0)


@torch.no_grad()
def reference(model, record, crop, stride):
    """For each pixel the list of what the windows say, in plain loops."""
    image = record["image"]
    height, width = image.shape[1:]
    said = [[[] for _ in range(width)] for _ in range(height)]
    for i in range(math.ceil(max(height - crop[0], 0) / stride[0]) + 1):
        for j in range(math.ceil(max(width - crop[1], 0) / stride[1]) + 1):
            bottom, right = (
                min(i * stride[0] + crop[0], height),
                min(j * stride[1] + crop[1], width),
            )
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            part = image[:, top:bottom, left:right]
            inputs = {"image": part, "height": bottom - top, "width": right - left}
            logits = model([inputs])[0]["sem_seg"].numpy()
            for y in range(top, bottom):
                for x in range(left, right):
                    said[y][x].append(logits[:, y - top, x - left])
    mean = np.array([[np.mean(pixel, axis=0) for pixel in row] for row in said])
    return resized(torch.from_numpy(mean).permute(2, 0, 1), record)


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((20, 31), (8, 8), (5, 3)),
        ((20, 31), (8, 12), (8, 12)),
        ((6, 31), (8, 8), (8, 5)),  # lower than a window
        ((20, 8), (8, 8), (1, 8)),
    ],
)
def test_the_mean_of_all_windows(size, crop, stride):
    model, record = Convolution().eval(), make_record(*size, output=(25, 27))
    actual = SlidingWindowInference(model, crop, stride)([record])[0]["sem_seg"]
    assert actual.shape == (K, 25, 27) and not actual.requires_grad
    expected = reference(model, record, crop, stride)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


def test_a_record_without_a_size_keeps_that_of_its_image(tmp_path):
    model = Trainer.build_model(tiny_config(tmp_path)).eval()
    record = {"image": make_record(40, 33)["image"]}
    slide = SlidingWindowInference(model, (32, 32), (16, 16))
    assert slide([record])[0]["sem_seg"].shape == (K, 40, 33)


def test_multi_scale_testing_of_windows(tmp_path):
    """Each copy at each scale is seen in windows; softmax and mean come after."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    cfg = tiny_config(
        tmp_path,
        [
            *("TEST.AUG.SCALES", [1.0, 2.0], "TEST.AUG.FLIP", True),
            *("INPUT.MIN_SIZE_TEST", 24, "INPUT.MAX_SIZE_TEST", 200, "INPUT.FORMAT", "RGB"),
            *("TEST.SEM_SEG.MODE", "slide", "INPUT.RESIZE_FILTER", "pillow"),
            *("TEST.SEM_SEG.CROP_SIZE", [16, 16], "TEST.SEM_SEG.STRIDE", [10, 11]),
        ],
    )
    model = Convolution().eval()
    tested = SemanticSegmentorWithTTA(cfg, build_inference(cfg, model))
    actual = tested([{"file_name": str(tmp_path / "image.png")}])[0]["sem_seg"]
    assert set(model.sizes) == {(16, 16)}
    maps = []
    for size in ((24, 40), (48, 80)):
        image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
        image = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        for flip in (False, True):
            record = {"image": image.flip(2) if flip else image, "height": 24, "width": 40}
            probability = reference(model, record, (16, 16), (10, 11)).softmax(dim=0)
            maps.append(probability.flip(2) if flip else probability)
    torch.testing.assert_close(actual, torch.stack(maps).mean(dim=0), atol=1e-12, rtol=0)


def test_the_trainer_tests_in_windows(configure):
    """All of an evaluation; a window that covers the images changes no figure."""
    model = Trainer.build_model(configure())
    whole = Trainer.test(configure(), model)["sem_seg"]
    slide = [
        "TEST.SEM_SEG.MODE",
        "slide",
        "TEST.SEM_SEG.STRIDE",
        [16, 16],
        "TEST.SEM_SEG.CROP_SIZE",
    ]
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
    assert Trainer.test(configure(*slide, [32, 32]), model)["sem_seg"] == whole
    assert len(seen) == 2
    cfg = configure(*slide, [16, 32], "TEST.AUG.SCALES", [1.0], "TEST.AUG.FLIP", False)
    seen.clear()
    windows = Trainer.test(cfg, model)["sem_seg"]
    # Two windows for each of two images, padded to the backbone's stride.
    assert len(seen) == 4
    seen.clear()
    augmented = Trainer.test_with_TTA(cfg, model)["sem_seg_TTA"]
    assert len(seen) == 4
    assert augmented["mIoU"] == pytest.approx(windows["mIoU"], abs=1e-6)
    assert model.training


@pytest.mark.parametrize(
    ("mode", "key", "value", "expected"),
    [
        ("tiles", "MODE", "tiles", "['whole', 'slide']"),
        ("slide", "STRIDE", [641, 640], "CROP_SIZE [640, 640]"),
        ("slide", "STRIDE", [0, 8], "two positive integers"),
        ("slide", "CROP_SIZE", ["a", 64], "two positive integers"),
        ("slide", "CROP_SIZE", [640], "two positive integers"),
    ],
)
def test_bad_options_end_a_training_before_it_starts(configure, mode, key, value, expected):
    options = ["TEST.SEM_SEG.MODE", mode, f"TEST.SEM_SEG.{key}", value]
    with raises_naming(ValueError, f"TEST.SEM_SEG.{key}", str(value), expected):
        Trainer(configure(*options))


def test_detectors_have_no_windows(tmp_path):
    cfg = detector_config(tmp_path, ["TEST.SEM_SEG.MODE", "slide"])
    with raises_naming(ValueError, "TEST.SEM_SEG.MODE 'slide'", "GeneralizedRCNN", "'whole'"):
        build_inference(cfg, nn.Identity())
