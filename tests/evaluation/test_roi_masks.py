# SPDX-License-Identifier: Apache-2.0
"""Masks of RoIs, encoded without being pasted: the bytes of detectron2's pasting and pycocotools.

The reference is detectron2's ``paste_masks_in_image`` and pycocotools' encoder, mask by mask.
"""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from torch.nn import functional as F

from longtail.evaluation import mask_runs, roi_masks
from longtail.evaluation.roi_masks import encode_roi_masks

SIZES = [(48, 64), (90, 57), (1, 1), (3, 150), (200, 2)]


def reference(masks, boxes, height, width):
    pasted = paste_masks_in_image(masks, boxes, (height, width), threshold=0.5)
    return [mask_util.encode(np.asfortranarray(m.numpy().astype(np.uint8))) for m in pasted]


def boxes_of(rng, kind, number, height, width):
    size = np.array([width, height])
    corner = rng.random((number, 2)) * size
    if kind == "inside":
        end = corner + rng.random((number, 2)) * (size - corner) + 1e-3
    elif kind == "less than a pixel":
        end = corner + 10.0 ** rng.uniform(-6, 0, (number, 2))
    elif kind == "whole pixels":
        corner = np.floor(corner)
        end = corner + rng.integers(1, size + 1, (number, 2))
    elif kind == "across the borders":
        end = corner + rng.random((number, 2)) * size
        corner -= rng.random((number, 2)) * size
    elif kind == "touching the borders":
        corner = np.where(rng.random((number, 2)) < 0.5, 0, np.floor(corner))
        end = np.where(rng.random((number, 2)) < 0.5, size, corner + 0.7)
    elif kind == "much larger than the image":
        end = size * (1 + 10.0 ** rng.uniform(-2, 4, (number, 2)))
        corner = -size * 10.0 ** rng.uniform(-2, 4, (number, 2))
    return torch.from_numpy(np.concatenate([corner, end], axis=1)).float()


BOXES = [
    "inside",
    "less than a pixel",
    "whole pixels",
    "across the borders",
    "touching the borders",
    "much larger than the image",
]


def masks_of(rng, kind, number, size):
    shape = number, size, size
    if kind == "smooth":
        y, x = np.mgrid[:size, :size] + 0.5
        radius = np.hypot(*(a - size * rng.uniform(0.3, 0.7, (number, 1, 1)) for a in (x, y)))
        edge = size * rng.uniform(0.1, 0.6, (number, 1, 1)) - radius
        values = 1 / (1 + np.exp(-edge * rng.uniform(0.1, 5, (number, 1, 1))))
    elif kind == "noise":
        values = rng.random(shape)
    elif kind == "around 0.5":
        values = 0.5 + rng.normal(0, 10.0 ** rng.uniform(-8, -2, (number, 1, 1)), shape)
    elif kind == "0 and 1":
        values = rng.integers(0, 2, shape)
    elif kind == "halves":
        values = rng.integers(0, 3, shape) / 2
    elif kind == "constant":
        values = np.ones(shape) * rng.choice([0, 0.5, 1], (number, 1, 1))
    return torch.from_numpy(values).float()


@pytest.mark.parametrize("boxes", BOXES)
@pytest.mark.parametrize(
    "masks", ["smooth", "noise", "around 0.5", "0 and 1", "halves", "constant"]
)
def test_bytes_are_those_of_pasting(boxes, masks):
    rng = np.random.default_rng([len(boxes), len(masks)])
    for height, width in SIZES:
        for size in (28, 14, 5, 1):
            corners = boxes_of(rng, boxes, 6, height, width)
            values = masks_of(rng, masks, 6, size)
            expected = reference(values, corners, height, width)
            assert encode_roi_masks(values, corners, height, width) == expected


def test_masks_of_a_trained_models_size(monkeypatch):
    """Several parts of columns, of images as they are."""
    rng = np.random.default_rng(0)
    boxes, masks = boxes_of(rng, "inside", 60, 480, 640), masks_of(rng, "smooth", 60, 28)
    expected = reference(masks, boxes, 480, 640)
    assert encode_roi_masks(masks, boxes, 480, 640) == expected
    monkeypatch.setattr(roi_masks, "COLUMNS_AT_ONCE", 100)
    assert encode_roi_masks(masks, boxes, 480, 640) == expected


class TestByHand:
    # A mask of one 1 over the box 2, 1, 4, 5: linear to 0 at a box's size from the centre, half of
    # it at the box's sides. Columns 2 and 3, rows 1 to 4 are within; at a pixel's centre 0.5 away
    # from (3, 3) the value is 3/4 in x, and 7/8, 5/8 in y at distances 0.5, 1.5.
    BOX = torch.tensor([[2.0, 1, 4, 5]])

    def test_pixels(self):
        (rle,) = encode_roi_masks(torch.ones(1, 1, 1), self.BOX, 6, 8)
        # 3/4 * 7/8 = 0.66, 3/4 * 5/8 = 0.47: rows 2 and 3 alone.
        expected = np.zeros((6, 8), np.uint8)
        expected[2:4, 2:4] = 1
        assert rle["size"] == [6, 8]
        np.testing.assert_array_equal(mask_util.decode(rle), expected)
        # 2 columns of 6 and 2 rows; 2 pixels; 4 more; 2 pixels; 2 rows and 4 columns.
        assert rle == mask_util.frPyObjects({"size": [6, 8], "counts": [14, 2, 4, 2, 26]}, 6, 8)

    def test_exactly_at_the_threshold(self):
        # In x 3/4, in y 1 at its centre: 0.75 * 2/3 = 0.5 of float32 or just below.
        box = torch.tensor([[2.0, 1, 4, 2]])
        for value in np.nextafter(np.float32(2 / 3), np.float32([0, 1, 2 / 3])):
            mask = torch.full((1, 1, 1), float(value))
            expected = bool(np.float32(0.75) * value >= np.float32(0.5))
            (rle,) = encode_roi_masks(mask, box, 6, 8)
            assert mask_util.area(rle) == 2 * expected

    def test_runs_go_on_from_a_column_to_the_next(self):
        # A box twice as large as the image: every pixel is within.
        (rle,) = encode_roi_masks(torch.ones(1, 1, 1), torch.tensor([[-3.0, -3, 9, 9]]), 6, 6)
        assert rle == mask_util.frPyObjects({"size": [6, 6], "counts": [0, 36]}, 6, 6)


class TestRounding:
    def test_columns_are_sampled_by_the_operator_itself_where_it_could_decide(self, monkeypatch):
        asked = []
        exact = mask_runs._exact_ends

        def counting(placed, columns):
            asked.append(len(columns))
            return exact(placed, columns)

        monkeypatch.setattr(mask_runs, "_exact_ends", counting)
        rng = np.random.default_rng(0)
        boxes = boxes_of(rng, "inside", 40, 100, 120)
        encode_roi_masks(masks_of(rng, "halves", 40, 28), boxes, 100, 120)
        assert asked[0] > 500
        asked.clear()
        encode_roi_masks(masks_of(rng, "smooth", 40, 28), boxes, 100, 120)
        assert sum(asked) < 40

    @pytest.mark.parametrize("size", [1, 7, 28, 56])
    def test_bound_holds_for_the_operator(self, size):
        """Against the interpolation in float64, from the same places in the box."""
        rng = np.random.default_rng(size)
        values = torch.from_numpy(rng.integers(0, 2, (1, 1, size, size))).float()
        values[..., 0, 0] = 1
        grid = torch.from_numpy(rng.uniform(-1.2, 1.2, (1, 300, 300, 2))).float()
        found = F.grid_sample(values, grid, align_corners=False)
        exact = F.grid_sample(values.double(), grid.double(), align_corners=False)
        assert 0 < (found - exact).abs().max() < mask_runs._rounding(size) / 2

    def test_the_operator_gives_a_pixel_the_same_value_in_any_grid(self):
        rng = np.random.default_rng(0)
        values = torch.from_numpy(rng.random((1, 1, 28, 28))).float()
        grid = torch.from_numpy(rng.uniform(-1.2, 1.2, (1, 37, 53, 2))).float()
        whole = F.grid_sample(values, grid, align_corners=False)
        for chosen in ([0], [52], [3, 4, 20], list(range(0, 53, 2))):
            part = F.grid_sample(values, grid[:, :, chosen], align_corners=False)
            assert torch.equal(part, whole[..., chosen])


class TestGeneralWay:
    """What is not a probability in float32 in a box inside is pasted, in its place among others."""

    BOXES = torch.tensor([[1.0, 2, 9, 8], [3, 3, 3, 9], [2, 2, 12, 11], [30, 4, 35, 9]])

    def masks(self):
        rng = np.random.default_rng(0)
        masks = masks_of(rng, "smooth", 4, 7)
        masks[2] = masks[2] * 3 - 1
        return masks

    def test_a_box_without_area_and_values_beyond_1(self):
        masks, boxes = self.masks()[:3], self.BOXES[:3]
        expected = reference(masks, boxes, 20, 25)
        assert encode_roi_masks(masks, boxes, 20, 25) == expected
        masks[0, 3, 3] = float("nan")
        expected = reference(masks, boxes, 20, 25)
        assert encode_roi_masks(masks, boxes, 20, 25) == expected

    @pytest.mark.parametrize("which", ["masks", "boxes"])
    def test_float64(self, which):
        masks, boxes = self.masks()[:1], self.BOXES[:1]
        if which == "masks":
            masks = masks.double()
        else:
            boxes = boxes.double()
        assert encode_roi_masks(masks, boxes, 20, 25) == reference(masks, boxes, 20, 25)

    def test_nothing(self):
        assert encode_roi_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 20, 25) == []

    def test_masks_that_are_not_square_are_refused_as_by_detectron2(self):
        with pytest.raises(AssertionError, match="square"):
            encode_roi_masks(torch.ones(1, 2, 3), self.BOXES[:1], 20, 25)
