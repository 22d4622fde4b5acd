# SPDX-License-Identifier: Apache-2.0
"""Segmentations: what pycocotools may see, and what becomes of it."""

import math

import numpy as np
import pytest
from pycocotools import mask as mask_util

from longtail.data.formats.lvis_shapes import (
    are_plain_polygons,
    check_segmentation,
    compressed_rle,
    decoded_counts,
    segmentation_rle,
)
from tests.data.lvis_documents import SQUARE, TRIANGLE


def compressed(counts, size=(24, 32)):
    """The text of pycocotools, which does not look at the sum."""
    return mask_util.frPyObjects({"size": [*size], "counts": counts}, *size)["counts"].decode()


class TestSegmentations:
    def rle(self, **changes):
        return {"size": [24, 32], "counts": [32 * 24 - 5, 5], **changes}

    @pytest.mark.parametrize(
        "shape",
        [
            [SQUARE],
            [SQUARE, TRIANGLE],
            [np.array(SQUARE, float), TRIANGLE],
            {"size": [24, 32], "counts": [0, 768]},
            {"size": [24, 32], "counts": compressed([700, 68])},
        ],
        ids=str,
    )
    def test_what_is_accepted(self, shape):
        check_segmentation(shape, 24, 32)

    @pytest.mark.parametrize(
        ("shape", "fact"),
        [
            (None, "polygon"),
            ("abc", "polygon"),
            ([], "polygon"),
            (SQUARE, "polygon"),
            ([SQUARE, [1, 2, 3, 4]], "3 points"),
            ([[1] * 7], "3 points"),
            ([np.zeros((6, 2))], "polygon"),
            ({"size": [24, 32]}, "counts"),
            ({"size": [24, 32], "counts": 5}, "counts"),
            ({"counts": "abc"}, r"\[24, 32\]"),
            ({"size": [32, 24], "counts": "abc"}, r"\[32, 24\].* \[24, 32\]"),
            ([[0, 0, 5, 0, 5, math.nan]], "coordinate nan"),
            ([[0, 0, 5, 0, 5, math.inf]], "coordinate inf"),
            ([[0, 0, 5, 0, 5, 64.5]], "coordinate 64.5.*24 x 32"),
            ([[0, 0, 5, 0, 5, -64.5]], "coordinate -64.5"),
            ([[0, 0, 5, 0, 5, 10**400]], "coordinate 1000"),
            ([[0, 0, 5, 0, 5, None]], "coordinate None"),
            ([[0, 0, 64, 64] * 80_000], "outlines of"),
            ({"size": [24, 32], "counts": [700, 67]}, "767 pixels.* 768"),
            ({"size": [24, 32], "counts": [800, -32]}, ">= 0"),
            ({"size": [24, 32], "counts": [768.0]}, "integers"),
            ({"size": [24, 32], "counts": [True, 767]}, "integers"),
            ({"size": [24, 32], "counts": []}, "0 pixels"),
            ({"size": [24, 32], "counts": ""}, "0 pixels"),
            ({"size": [24, 32], "counts": "abc"}, "cut short"),
            ({"size": [24, 32], "counts": "a c"}, "character"),
            ({"size": [24, 32], "counts": "\xff"}, "character"),
            ({"size": [24, 32], "counts": "P" * 8 + "0"}, "no image has"),
            ({"size": [24, 32], "counts": compressed([700, 67])}, "767 pixels.* 768"),
            ({"size": [24, 32], "counts": compressed([800, 1])[:-1] + "O"}, ">= 0"),
        ],
        ids=str,
    )
    def test_what_is_refused(self, shape, fact):
        for check in (check_segmentation, segmentation_rle):
            with pytest.raises(ValueError, match=f"^has an .*{fact}"):
                check(shape, 24, 32)

    def test_polygons_become_one_mask(self):
        expected = np.zeros((24, 32), bool)
        expected[3:13, 2:12] = True
        expected[15:20, 20:30] = True
        # Twice the same square: a union, not a difference.
        shape = [SQUARE, SQUARE, [20, 15, 30, 15, 30, 20, 20, 20]]
        rle = segmentation_rle(shape, 24, 32)
        np.testing.assert_array_equal(mask_util.decode(rle), expected)

    def test_counts_are_compressed_once(self):
        rle = compressed_rle(self.rle())
        expected = np.zeros((24, 32), bool)
        expected[-5:, -1] = True  # the last five pixels, column by column
        np.testing.assert_array_equal(mask_util.decode(rle), expected)
        text = {"size": [24, 32], "counts": rle["counts"].decode()}
        assert compressed_rle(text) is text
        assert segmentation_rle(text, 24, 32) is text
        np.testing.assert_array_equal(
            mask_util.decode(segmentation_rle(self.rle(), 24, 32)), expected
        )


class TestCompressedCounts:
    def test_by_hand(self):
        # 3 = 00011; 20 = 10100, whose highest bit is no sign, so one more group of 5; 1; and the
        # fourth, 22, as its difference 2 from the second.
        assert decoded_counts("3d012").tolist() == [3, 20, 1, 22]
        # -2 = 11110.
        assert decoded_counts("3d01N").tolist() == [3, 20, 1, 18]

    @pytest.mark.parametrize("seed", range(5))
    def test_what_pycocotools_has_written(self, seed):
        generator = np.random.default_rng(seed)
        mask = generator.random((97, 1013)) < generator.choice([0.001, 0.1, 0.5, 0.99])
        mask[:, 300:800] = seed % 2
        text = mask_util.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
        flat = mask.ravel(order="F").astype(int)
        runs = np.diff([0, *np.flatnonzero(np.diff(flat, prepend=0)), flat.size])
        assert decoded_counts(text).tolist() == runs.tolist()


class TestPlainPolygons:
    """The quick check never accepts what the thorough one refuses."""

    @pytest.mark.parametrize(
        "shape",
        [
            *(None, "abc", [], SQUARE, [SQUARE, [1, 2, 3, 4]], [[1] * 7], [[]]),
            {"size": [24, 32], "counts": [0, 768]},
            *([SQUARE, [0, 0, 5, 0, 5, wrong]] for wrong in (math.nan, math.inf, 64.5, -64.5)),
            *([[0, 0, 5, 0, 5, wrong]] for wrong in (None, "1", 10**400)),
            [[0, 0, 64, 64] * 80_000],
        ],
        ids=lambda shape: str(shape)[:40],
    )
    def test_one_that_is_wrong_among_others(self, shape):
        for place in range(3):
            shapes = [[SQUARE], [SQUARE, TRIANGLE], [TRIANGLE]]
            assert are_plain_polygons(shapes, [64, 64, 64])
            shapes[place] = shape
            assert not are_plain_polygons(shapes, [64, 64, 64])

    def test_the_limit_is_that_of_the_annotation(self):
        far = [[0, 0, 5, 0, 5, 64]]
        assert are_plain_polygons([[SQUARE], far, [SQUARE, SQUARE]], [13, 64, 13])
        assert not are_plain_polygons([[SQUARE], far, [SQUARE, SQUARE]], [64, 63, 64])
        assert not are_plain_polygons([[SQUARE, *far], [SQUARE]], [63, 64])
