# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation against a plain average over scales and flips."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from longtail.engine import SemanticSegmentorWithTTA
from longtail.engine.inference import tta
from tests.messages import raises_naming
from tests.tiny import tiny_config

K, HEIGHT, WIDTH = 3, 24, 40


class Model(nn.Module):
    """A segmentor that depends on position and colour, and remembers its inputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, K, 3, padding=1)
        self.seen = []

    def forward(self, batched_inputs):
        outputs = []
        for inputs in batched_inputs:
            self.seen.append(inputs["image"])
            logits = self.conv(inputs["image"][None].float() / 64)
            size = (inputs["height"], inputs["width"])
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            outputs.append({"sem_seg": logits[0]})
        return outputs


class Constant(nn.Module):
    """Gives the same logits for every pixel."""

    logits = torch.tensor([1.0, -2.0, 0.5])

    def forward(self, batched_inputs):
        return [
            {"sem_seg": self.logits[:, None, None].expand(K, x["height"], x["width"])}
            for x in batched_inputs
        ]


@pytest.fixture
def record(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return {"file_name": str(tmp_path / "image.png")}


@pytest.fixture
def augmented(tmp_path):
    def build(model, scales, flip, **sizes):
        options = ["TEST.AUG.SCALES", scales, "TEST.AUG.FLIP", flip]
        options += ["INPUT.MIN_SIZE_TEST", HEIGHT, "INPUT.MAX_SIZE_TEST", 200]
        options += ["INPUT.RESIZE_FILTER", "pillow"]
        for key, value in sizes.items():
            options += [f"INPUT.{key}", value]
        return SemanticSegmentorWithTTA(tiny_config(tmp_path, options), model).eval()

    return build


@torch.no_grad()
def reference(model, file_name, sizes, flips):
    image = Image.open(file_name)
    maps = []
    for height, width in sizes:
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        for flip in flips:
            copy = np.fliplr(pixels) if flip else pixels
            tensor = torch.from_numpy(copy.transpose(2, 0, 1).copy())
            logits = model([{"image": tensor, "height": HEIGHT, "width": WIDTH}])[0]["sem_seg"]
            probability = torch.softmax(logits.double(), dim=0).numpy()
            maps.append(probability[:, :, ::-1] if flip else probability)
    return np.mean(maps, axis=0)


@pytest.mark.parametrize("flip", [False, True])
def test_average_of_softmax_over_scales_and_flips(augmented, record, flip):
    model = Model()
    result = augmented(model, [0.5, 1.0, 1.5], flip)([record])[0]["sem_seg"]
    sizes = [(12, 20), (24, 40), (36, 60)]
    expected = reference(model, record["file_name"], sizes, (False, True) if flip else (False,))
    assert result.shape == (K, HEIGHT, WIDTH)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(result.sum(dim=0).numpy(), 1, atol=1e-6)


def test_scales_count_from_the_test_size_and_its_bound(augmented, record):
    """40 x 24 in (48, 48) * 0.5 and * 2: the longer side is the one that is bound."""
    model = Model()
    augmented(model, [0.5, 2.0], False, MIN_SIZE_TEST=48, MAX_SIZE_TEST=48)([record])
    assert [tuple(image.shape[1:]) for image in model.seen] == [(14, 24), (58, 96)]


def test_sides_are_cut_to_whole_pixels(augmented, record):
    """0.75 x 26 = 19.5 becomes 19, and 40 / 24 x 19 = 31.7 is rounded to 32."""
    model = Model()
    augmented(model, [0.75], False, MIN_SIZE_TEST=26)([record])
    assert [tuple(image.shape[1:]) for image in model.seen] == [(19, 32)]


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_channels_have_the_order_of_the_config(augmented, record, order):
    model = Model()
    augmented(model, [1.0], False, FORMAT=order)([record])
    pixels = torch.from_numpy(np.array(Image.open(record["file_name"]))).permute(2, 0, 1)
    assert torch.equal(model.seen[0], pixels if order == "RGB" else pixels.flip(0))


def test_a_constant_model_keeps_its_softmax(augmented, record):
    result = augmented(Constant(), [0.5, 0.75, 1.25], True)([record])[0]["sem_seg"]
    expected = Constant.logits.softmax(dim=0)[:, None, None].expand(K, HEIGHT, WIDTH)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_with_flips_a_flipped_image_gives_the_flipped_map(augmented, record, tmp_path):
    flipped = {"file_name": str(tmp_path / "flipped.png")}
    image = Image.open(record["file_name"])
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(flipped["file_name"])
    model = augmented(Model(), [1.0], True)
    first, second = (output["sem_seg"] for output in model([record, flipped]))
    torch.testing.assert_close(first, second.flip(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("part", [1, K * WIDTH * 5])
def test_rows_at_a_time_are_the_whole_map(augmented, record, monkeypatch, flip, part):
    """One row, and five, of which the 24 are no multiple; a map that fits at once in every bit."""
    model = Model()
    result = augmented(model, [0.5, 1.0], flip)([record])[0]["sem_seg"]
    total = 0
    for index, image in enumerate(model.seen[: 4 if flip else 2]):
        whole = model([{"image": image, "height": HEIGHT, "width": WIDTH}])[0]["sem_seg"]
        flipped = flip and index % 2 == 1
        total = total + (whole.softmax(dim=0).flip(2) if flipped else whole.softmax(dim=0))
    monkeypatch.setattr(tta, "_PART", part)
    in_parts = augmented(Model(), [0.5, 1.0], flip)([record])[0]["sem_seg"]
    assert torch.equal(result, total / (4 if flip else 2))
    # Vectors of pixels end elsewhere, and what they leave is computed one by one.
    torch.testing.assert_close(in_parts, result, atol=2e-7, rtol=0)


def test_logits_of_one_copy_at_a_time(augmented, record):
    """Those of the copy before are gone, and what is given is none of them."""
    model, given = Model(), []

    class Watched(nn.Module):
        def forward(self, batched_inputs):
            assert not any(reference() is not None for reference in given)
            outputs = model(batched_inputs)
            given.append(weakref.ref(outputs[0]["sem_seg"]))
            return outputs

    augmented(Watched(), [0.5, 1.0], True)([record])
    assert len(given) == 4


def test_no_gradient_is_kept(augmented, record):
    assert not augmented(Model(), [1.0], True)([record])[0]["sem_seg"].requires_grad


@pytest.mark.parametrize("scales", [[], [1.0, 0.0], [-1.0]])
def test_scales_must_be_positive(augmented, scales):
    with raises_naming(ValueError, "TEST.AUG.SCALES", str(scales)):
        augmented(Model(), scales, True)
