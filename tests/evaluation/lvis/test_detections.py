# SPDX-License-Identifier: Apache-2.0
"""Detections of one image in cases by hand: order, limit, federated rules, masks, results."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances

from longtail.evaluation.lvis.detections import (
    EncodedMasks,
    encode_masks,
    is_matched,
    match_detections,
    results_line,
    select_detections,
)
from longtail.evaluation.lvis.matches import unpack_bits
from longtail.evaluation.roi_masks import MASKS_AT_ONCE
from tests.evaluation.lvis.by_hand import annotations, ground_truth

BOX, FAR = [0, 0, 20, 20], [50, 50, 20, 20]
# Category 0 is annotated, 1 is known to be absent, of 2 nothing is known in image 1.
DATA = annotations([ground_truth(), ground_truth([(0, BOX, False)], negative=[1])])


def select(rows, limit=300):
    """From (category, score, box) rows, in image 1."""
    return select_detections(
        DATA,
        1,
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        limit,
    )


ROWS = [(2, 0.3, BOX), (0, 0.5, FAR), (2, 0.9, BOX), (0, 0.5, BOX), (1, 0.4, BOX)]


class TestSelection:
    def test_by_falling_score_and_equal_ones_as_the_model_has_them(self):
        selected = select(ROWS)
        assert selected.image == 1
        assert selected.order.tolist() == [2, 1, 3, 4, 0]
        assert selected.category.tolist() == [2, 0, 0, 1, 2]
        np.testing.assert_allclose(selected.score, [0.9, 0.5, 0.5, 0.4, 0.3], rtol=1e-6)
        assert selected.boxes.tolist() == [BOX, FAR, BOX, BOX, BOX]

    def test_what_is_unknown_cannot_count_but_takes_up_a_place(self):
        selected = select(ROWS, limit=3)
        assert selected.countable.tolist() == [False, True, True, True, False]
        assert selected.in_limit.tolist() == [True, True, True, False, False]
        assert is_matched(selected, unlimited=False).tolist() == [False, True, True, False, False]
        assert is_matched(selected, unlimited=True).tolist() == [False, True, True, True, False]

    def test_more_than_300_detections(self):
        # 350 with scores 1, 2, ..., 350: the best 300 are those from 51 on.
        selected = select([(0, n, BOX) for n in range(1, 351)])
        assert selected.in_limit.sum() == 300
        assert selected.score[selected.in_limit].tolist() == list(range(350, 50, -1))
        kept = match_detections(DATA, selected, None, unlimited=False)
        assert len(kept) == 300 and kept.score.min() == 51
        everything = match_detections(DATA, selected, None, unlimited=True)
        assert len(everything) == 350
        assert everything.in_image_limit.tolist() == [True] * 300 + [False] * 50

    def test_no_detections(self):
        selected = select([])
        assert len(match_detections(DATA, selected, None, unlimited=True)) == 0


def verdicts(matches, task):
    right, wrong = (
        unpack_bits(bits[task])[0] for bits in (matches.true_positive, matches.false_positive)
    )
    return [
        "right" if r else "wrong" if w else "neither" for r, w in zip(right, wrong, strict=True)
    ]


class TestMatches:
    # By falling score: 2 (unknown), 0 far off, 0 on the annotation, 1 (absent), 2 (unknown).
    def test_without_a_need_only_what_is_compared_is_kept(self):
        matched = match_detections(DATA, select(ROWS, limit=3), None, unlimited=False)
        assert matched.category.tolist() == [0, 0]
        assert matched.image.tolist() == [1, 1]
        assert matched.in_image_limit.tolist() == [True, True]
        assert verdicts(matched, "bbox") == ["wrong", "right"]
        assert list(matched.true_positive) == ["bbox"]

    def test_what_has_a_place_in_its_category_is_kept(self):
        matched = match_detections(DATA, select(ROWS, limit=3), None, unlimited=True)
        assert matched.category.tolist() == [2, 0, 0, 1, 2]
        # Of an image's best only those that can count.
        assert matched.in_image_limit.tolist() == [False, True, True, False, False]
        assert verdicts(matched, "bbox") == ["neither", "wrong", "right", "wrong", "neither"]

    def test_masks_have_verdicts_of_their_own(self):
        """Here each mask lies where the box of the other detection of its category is."""

        def rle(x, y, width, height):
            mask = np.zeros((100, 120), np.uint8, order="F")
            mask[y : y + height, x : x + width] = 1
            return mask_util.encode(mask)

        masks = {1: rle(*BOX), 2: rle(*FAR), 3: rle(*BOX)}
        matched = match_detections(DATA, select(ROWS), masks, unlimited=True)
        assert verdicts(matched, "bbox") == ["neither", "wrong", "right", "wrong", "neither"]
        assert verdicts(matched, "segm") == ["neither", "right", "wrong", "wrong", "neither"]

    def test_an_image_of_which_nothing_is_known(self):
        selected = select_detections(
            DATA, 0, np.array([0]), np.array([0.5]), np.array([BOX], np.float32), 300
        )
        assert len(match_detections(DATA, selected, None, unlimited=False)) == 0


@pytest.mark.parametrize("number", [1, MASKS_AT_ONCE, 2 * MASKS_AT_ONCE + 3])
def test_masks_are_encoded_in_the_order_of_the_indices(number):
    masks = np.random.default_rng(0).random((number, 13, 17)) < 0.4
    instances = Instances(
        (13, 17),
        pred_boxes=Boxes(torch.zeros(number, 4)),
        pred_masks=torch.from_numpy(masks),
    )
    indices = np.random.default_rng(1).permutation(number)
    found = encode_masks(instances, indices)
    assert len(found) == number
    for rle, index in zip(found, indices, strict=True):
        assert rle["size"] == [13, 17]
        np.testing.assert_array_equal(mask_util.decode(rle), masks[index])
    assert encode_masks(instances, indices[:0]) == []


def test_encoded_masks_are_read_by_detectron2_as_pixels():
    masks = np.random.default_rng(0).random((3, 13, 17)) < 0.4
    encoded = [mask_util.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    instances = Instances((13, 17), pred_boxes=Boxes(torch.zeros(3, 4)), scores=torch.ones(3))
    instances.pred_classes = torch.zeros(3, dtype=torch.int64)
    instances.pred_masks = EncodedMasks(encoded)
    for entry, mask in zip(instances_to_coco_json(instances.to("cpu"), 1), masks, strict=True):
        np.testing.assert_array_equal(mask_util.decode(entry["segmentation"]), mask)


def test_results_are_in_lviss_format():
    selected = select(ROWS)
    masks = {1: {"size": [100, 120], "counts": b"abc"}, 3: {"size": [100, 120], "counts": b"de"}}
    chosen = np.array([False, True, False, True, False])
    line = results_line(DATA, selected, masks, chosen)
    score = float(np.float32(0.4))
    assert json.loads(b"[" + line + b"]") == [
        {
            "image_id": 20,
            "category_id": 1,
            "bbox": FAR,
            "score": 0.5,
            "segmentation": {"size": [100, 120], "counts": "abc"},
        },
        {
            "image_id": 20,
            "category_id": 2,
            "bbox": BOX,
            "score": score,
            "segmentation": {"size": [100, 120], "counts": "de"},
        },
    ]
    (box_alone,) = json.loads(
        b"[" + results_line(DATA, selected, None, chosen & (chosen.cumsum() == 1)) + b"]"
    )
    assert box_alone == {"image_id": 20, "category_id": 1, "bbox": FAR, "score": 0.5}
