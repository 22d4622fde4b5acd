# SPDX-License-Identifier: Apache-2.0
"""Matching in cases by hand: who takes what, ties, ignored annotations, areas, open lists.

IoU thresholds are 0.5, 0.55, ..., 0.95; ``up_to(x)`` are those that an IoU of x reaches.
"""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from longtail.evaluation.lvis.matches import NUM_BYTES, unpack_bits
from longtail.evaluation.lvis.matching import greedy_match, match_image
from tests.evaluation.lvis.by_hand import ALL, LARGE, MEDIUM, SMALL, T, ground_truth


def up_to(iou):
    return [5 * t + 50 <= round(100 * iou) for t in range(T)]


def between(low, high):
    return [a and not b for a, b in zip(up_to(high), up_to(low), strict=True)]


NONE = [False] * T


def match(ious, ignored=None):
    """(D, T) has an annotation, and has one that is ignored, for one range of areas."""
    ious = np.array(ious, np.float64)
    flags = np.zeros((1, ious.shape[1]), bool) if ignored is None else np.array([ignored], bool)
    matched, to_ignored = greedy_match(ious, flags)
    assert matched.shape == to_ignored.shape == (1, T, len(ious))
    return matched[0].T.tolist(), to_ignored[0].T.tolist()


class TestGreedyMatch:
    def test_an_iou_that_equals_the_threshold_reaches_it(self):
        matched, to_ignored = match([[0.5, 0.0], [0.0, 0.75]])
        assert matched == [[True] + [False] * 9, [True] * 6 + [False] * 4]
        assert to_ignored == [NONE, NONE]

    def test_an_annotation_is_taken_once(self):
        # The first takes it up to 0.7; for the second it is free from 0.75 on.
        matched, _ = match([[0.72], [0.83]])
        assert matched == [up_to(0.72), between(0.72, 0.83)]

    def test_the_largest_iou_wins(self):
        # The first takes annotation 0; the second, which only reaches that one, finds it taken.
        matched, _ = match([[0.83, 0.62], [0.93, 0.0]])
        assert matched == [up_to(0.83), between(0.83, 0.93)]
        # And the other way round: annotation 0 is free where the first one took annotation 1.
        matched, _ = match([[0.62, 0.83], [0.93, 0.0]])
        assert matched == [up_to(0.83), up_to(0.93)]

    def test_of_equal_ious_the_last_annotation_is_taken(self):
        """As lvis-api, whose loop only passes over what is smaller than the best so far."""
        # The first takes annotation 1, so that 0 is left for the second.
        matched, _ = match([[0.62, 0.62], [0.93, 0.0]])
        assert matched == [up_to(0.62), up_to(0.93)]
        # Here the second one wants annotation 1: only where the first did not take it.
        matched, _ = match([[0.62, 0.62], [0.0, 0.93]])
        assert matched == [up_to(0.62), between(0.62, 0.93)]

    def test_of_three_equal_ones_they_are_taken_from_the_last_on(self):
        # Annotations 2 and 1 go to the first two, 0 is left for the one that needs it.
        same = [0.62] * 3
        matched, _ = match([same, same, [0.93, 0.0, 0.0]])
        assert matched == [up_to(0.62), up_to(0.62), up_to(0.93)]
        matched, _ = match([same, same, [0.0, 0.93, 0.0]])
        assert matched == [up_to(0.62), up_to(0.62), between(0.62, 0.93)]

    def test_one_that_counts_comes_before_an_ignored_one_with_more_overlap(self):
        matched, to_ignored = match([[0.57, 0.93]], ignored=[False, True])
        assert matched == [up_to(0.93)]
        assert to_ignored == [between(0.57, 0.93)]
        # Whatever their order in the file.
        assert match([[0.93, 0.57]], ignored=[True, False]) == (matched, to_ignored)

    def test_of_equal_ignored_ones_the_last_is_taken(self):
        matched, to_ignored = match([[0.62, 0.62], [0.0, 0.93]], ignored=[True, True])
        assert matched == to_ignored == [up_to(0.62), between(0.62, 0.93)]

    def test_an_ignored_annotation_is_taken_once(self):
        """As in lvis-api; COCO's crowds, which may be taken again and again, do not exist here."""
        matched, to_ignored = match([[0.93], [0.93]], ignored=[True])
        assert matched == to_ignored == [up_to(0.93), NONE]

    def test_each_range_of_areas_is_matched_on_its_own(self):
        ious = np.array([[0.93, 0.62]])
        matched, to_ignored = greedy_match(ious, np.array([[False, False], [True, False]]))
        # In the second range annotation 0 is ignored, so 1 comes first where it is reached.
        assert matched[:, :, 0].tolist() == [up_to(0.93), up_to(0.93)]
        assert to_ignored[:, :, 0].tolist() == [NONE, between(0.62, 0.93)]

    def test_detections_below_all_thresholds_take_nothing(self):
        matched, to_ignored = match([[0.49], [0.0], [0.93]])
        assert matched == [NONE, NONE, up_to(0.93)]
        assert to_ignored == [NONE] * 3


def verdicts(truth, category, boxes):
    """{(area, detection): "right", "wrong" or "neither"} at IoU 0.5."""
    category, boxes = np.array(category, np.int32), np.array(boxes, np.float32).reshape(-1, 4)
    bits = match_image(truth, truth.boxes, category, boxes)
    assert all(b.shape == (len(category), NUM_BYTES) for b in bits)
    right, wrong = (unpack_bits(b).reshape(4, T, -1)[:, 0] for b in bits)
    assert not (right & wrong).any()
    words = np.where(right, "right", np.where(wrong, "wrong", "neither"))
    return {(a, d): words[a, d] for a in range(4) for d in range(len(category))}


def of_detection(found, index):
    return [str(found[area, index]) for area in (ALL, SMALL, MEDIUM, LARGE)]


class TestMatchImage:
    def test_a_hit_counts_in_the_range_of_the_annotations_area(self):
        truth = ground_truth([(0, [0, 0, 40, 40], False)])  # 1600: medium
        found = verdicts(truth, [0], [[0, 0, 40, 40]])
        # Elsewhere it has an annotation that is ignored: neither right nor wrong.
        assert of_detection(found, 0) == ["right", "neither", "right", "neither"]

    def test_the_annotations_area_decides_not_the_detections(self):
        truth = ground_truth([(0, [0, 0, 32, 40], False)])  # 1280: medium
        found = verdicts(truth, [0], [[0, 0, 30, 30]])  # 900, IoU 900 / 1280 = 0.70
        assert of_detection(found, 0) == ["right", "neither", "right", "neither"]

    @pytest.mark.parametrize(
        ("box", "expected"),
        [
            ([50, 50, 10, 10], ["wrong", "wrong", "neither", "neither"]),
            ([50, 50, 32, 32], ["wrong", "wrong", "wrong", "neither"]),
            ([50, 50, 40, 40], ["wrong", "neither", "wrong", "neither"]),
            ([50, 50, 96, 96], ["wrong", "neither", "wrong", "wrong"]),
            ([50, 50, 97, 97], ["wrong", "neither", "neither", "wrong"]),
            ([50, 50, 0, 10], ["neither"] * 4),  # without area
        ],
    )
    def test_a_miss_counts_in_the_range_of_its_own_area(self, box, expected):
        truth = ground_truth([(0, [0, 0, 20, 20], False)])
        assert of_detection(verdicts(truth, [0], [box]), 0) == expected

    def test_a_category_that_is_known_to_be_absent(self):
        truth = ground_truth(negative=[1])
        assert of_detection(verdicts(truth, [1], [[0, 0, 10, 10]]), 0)[:2] == ["wrong", "wrong"]

    def test_a_category_whose_list_is_open(self):
        """What is on the list is right; nothing else is wrong."""
        truth = ground_truth([(0, [0, 0, 20, 20], False)], not_exhaustive=[0])
        found = verdicts(truth, [0, 0], [[0, 0, 20, 20], [50, 50, 10, 10]])
        assert of_detection(found, 0)[:2] == ["right", "right"]
        assert of_detection(found, 1) == ["neither"] * 4

    def test_an_open_list_is_that_of_its_category_alone(self):
        truth = ground_truth([(0, [0, 0, 20, 20], False)], negative=[1], not_exhaustive=[0])
        found = verdicts(truth, [1], [[50, 50, 10, 10]])
        assert of_detection(found, 0)[0] == "wrong"

    def test_an_ignored_annotation_makes_neither(self):
        truth = ground_truth([(0, [0, 0, 20, 20], True)])
        found = verdicts(truth, [0, 0], [[0, 0, 20, 20], [0, 0, 20, 19]])
        assert of_detection(found, 0) == ["neither"] * 4
        assert of_detection(found, 1)[0] == "wrong"  # it is taken once

    def test_categories_do_not_take_each_others_annotations(self):
        box = [0, 0, 20, 20]
        truth = ground_truth([(3, box, False), (0, box, False)], negative=[1])
        found = verdicts(truth, [1, 0, 3, 3], [box] * 4)
        assert [found[ALL, d] for d in range(4)] == ["wrong", "right", "right", "wrong"]

    def test_thresholds_by_an_iou_that_is_known(self):
        # 20 x 20 in a box of 20 x 25: 400 / 500 = 0.8, reached at 0.5, ..., 0.8: 7 thresholds.
        truth = ground_truth([(0, [0, 0, 20, 20], False)])
        right, wrong = match_image(
            truth, truth.boxes, np.array([0]), np.array([[0, 0, 20, 25]], np.float32)
        )
        assert unpack_bits(right).reshape(4, T)[ALL].tolist() == [True] * 7 + [False] * 3
        assert unpack_bits(wrong).reshape(4, T)[ALL].tolist() == [False] * 7 + [True] * 3

    def test_no_detections(self):
        truth = ground_truth([(0, [0, 0, 20, 20], False)])
        right, wrong = match_image(truth, truth.boxes, np.zeros(0, int), np.zeros((0, 4)))
        assert right.shape == wrong.shape == (0, NUM_BYTES)


def rle(x, y, width, height):
    mask = np.zeros((120, 130), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    return mask_util.encode(mask)


class TestMasks:
    def test_overlap_and_area_are_those_of_the_pixels(self):
        # 20 x 20 and its left half: IoU 200 / 400 = 0.5. A mask of 40 x 40 = 1600 is medium.
        truth = ground_truth([(0, [0, 0, 20, 20], False)])
        shapes = [rle(0, 0, 10, 20), rle(50, 50, 40, 40), rle(0, 0, 0, 0)]
        right, wrong = match_image(truth, [rle(0, 0, 20, 20)], np.zeros(3, int), shapes)
        right, wrong = (unpack_bits(bits).reshape(4, T, 3) for bits in (right, wrong))
        assert right[:, 0].T.tolist() == [[True, True, False, False], [False] * 4, [False] * 4]
        assert not right[:, 1:].any()
        assert wrong[:, 1].T.tolist() == [
            [True, True, False, False],
            [True, False, True, False],
            [False] * 4,
        ]

    def test_more_masks_than_fit_into_a_byte(self):
        # Areas 1, 2, ..., 600 of one row: small up to 1024, hence all of them are.
        shapes = [
            mask_util.encode(np.asfortranarray(np.arange(700)[None] <= n, np.uint8))
            for n in range(600)
        ]
        truth = ground_truth(negative=[0])
        right, wrong = match_image(truth, [], np.zeros(600, int), shapes)
        assert not right.any()
        wrong = unpack_bits(wrong).reshape(4, T, 600)
        assert wrong[[ALL, SMALL]].all() and not wrong[[MEDIUM, LARGE]].any()
