# SPDX-License-Identifier: Apache-2.0
"""The metric functions against plain loops and numbers derived by hand."""

import math

import numpy as np
import pytest
import torch

from longtail.evaluation.sem_seg.metrics import (
    confusion_matrix,
    iou_from_confusion,
    largest_logits,
)


def confusion_by_loop(prediction, target, num_classes, ignore_label):
    matrix = [[0] * num_classes for _ in range(num_classes)]
    pairs = zip(target.flatten().tolist(), prediction.flatten().tolist(), strict=True)
    for t, p in pairs:
        if t != ignore_label:
            matrix[t][p] += 1
    return torch.tensor(matrix)


class TestLargestLogits:
    # 63 and 64 lie on both sides of the switch to two passes; 75 is a multiple of the group's
    # size, 76 and 89 leave a rest of 1 and of 14 planes.
    @pytest.mark.parametrize("num_classes", [1, 2, 11, 63, 64, 75, 76, 89, 150])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_equals_argmax(self, num_classes, dtype):
        logits = torch.randn(num_classes, 9, 7, generator=torch.Generator().manual_seed(0))
        logits = logits.to(dtype)
        values, classes = largest_logits(logits)
        assert torch.equal(classes, logits.argmax(dim=0))
        assert torch.equal(values, logits.amax(dim=0))

    @pytest.mark.parametrize("num_classes", [3, 75, 89, 150])
    def test_ties_go_to_the_first_class(self, num_classes):
        # Logits of only 3 values: nearly every pixel has ties within and across groups.
        generator = torch.Generator().manual_seed(1)
        logits = torch.randint(0, 3, (num_classes, 16, 17), generator=generator).float()
        expected = np.argmax(logits.numpy(), axis=0)  # documented to give the first
        np.testing.assert_array_equal(largest_logits(logits)[1].numpy(), expected)

    @pytest.mark.parametrize("where", [0, 14, 15, 74, 80, 88])
    def test_nan_counts_as_largest(self, where):
        logits = torch.randn(89, 4, 5, generator=torch.Generator().manual_seed(2))
        logits[where, 1, 2] = math.nan
        values, classes = largest_logits(logits)
        assert classes[1, 2] == where
        assert values.isnan().nonzero().tolist() == [[1, 2]]
        assert torch.equal(classes, logits.argmax(dim=0))

    def test_infinite_logits(self):
        logits = torch.full((89, 2, 2), -math.inf)
        logits[88, 0, 0] = math.inf
        values, classes = largest_logits(logits)
        assert classes.tolist() == [[88, 0], [0, 0]]
        assert values.tolist() == [[math.inf, -math.inf], [-math.inf, -math.inf]]

    def test_memory_layout_does_not_matter(self):
        logits = torch.randn(6, 5, 150, generator=torch.Generator().manual_seed(3))
        channels_last = logits.permute(2, 0, 1)
        expected = channels_last.contiguous().argmax(dim=0)
        assert torch.equal(largest_logits(channels_last)[1], expected)


class TestConfusionMatrix:
    @pytest.mark.parametrize("target_dtype", [torch.uint8, torch.int16, torch.int64])
    def test_equals_a_loop_over_pixels(self, target_dtype):
        generator = torch.Generator().manual_seed(0)
        target = torch.randint(0, 5, (3, 8, 9), generator=generator).to(target_dtype)
        prediction = torch.randint(0, 5, (3, 8, 9), generator=generator)
        target[:, :2] = 77
        result = confusion_matrix(prediction, target, 5, ignore_label=77)
        assert result.dtype == torch.int64
        assert torch.equal(result, confusion_by_loop(prediction, target, 5, 77))

    def test_rows_are_targets(self):
        prediction = torch.tensor([1, 1, 2])
        target = torch.tensor([0, 0, 1])
        assert confusion_matrix(prediction, target, 3).tolist() == [[0, 2, 0], [0, 0, 1], [0, 0, 0]]

    def test_ignore_label_may_be_negative_or_a_class(self):
        prediction, target = torch.tensor([0, 1, 1]), torch.tensor([-1, 0, 1])
        assert confusion_matrix(prediction, target, 2, -1).tolist() == [[0, 1], [0, 1]]
        prediction, target = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
        assert confusion_matrix(prediction, target, 2, 0).tolist() == [[0, 0], [0, 1]]

    def test_prediction_under_ignored_pixels_is_free(self):
        assert confusion_matrix(torch.tensor([255]), torch.tensor([255]), 2).sum() == 0

    def test_images_add_up_and_inputs_stay(self):
        generator = torch.Generator().manual_seed(4)
        target = torch.randint(0, 4, (2, 6, 6), generator=generator)
        prediction = torch.randint(0, 4, (2, 6, 6), generator=generator)
        before = target.clone()
        parts = sum(confusion_matrix(p, t, 4) for p, t in zip(prediction, target, strict=True))
        assert torch.equal(confusion_matrix(prediction, target, 4), parts)
        assert torch.equal(target, before)

    def test_no_pixel(self):
        empty = torch.zeros(0, dtype=torch.int64)
        assert confusion_matrix(empty, empty, 3).tolist() == [[0] * 3] * 3

    @pytest.mark.parametrize(
        ("prediction", "target", "message"),
        [
            ([0, 1], [0, 3], r"target has the value 3, expected 0..2; relabel"),
            ([0, 1], [-2, 0], r"target has the value -2"),
            ([0, 7], [0, 1], r"prediction has the value 7, expected 0..2; the model"),
            ([0, -1], [0, 1], r"prediction has the value -1"),
            ([0, 1, 2], [0, 1], r"same shape, got \(3,\) and \(2,\)"),
            ([0.0, 1.0], [0, 1], r"prediction must hold integer class indices, got torch.float32"),
            ([0, 1], [True, False], r"target must hold integer class indices, got torch.bool"),
        ],
    )
    def test_bad_input(self, prediction, target, message):
        with pytest.raises(ValueError, match=message):
            confusion_matrix(torch.tensor(prediction), torch.tensor(target), 3)


class TestIouFromConfusion:
    def test_by_hand(self):
        # target 0: 6 right, 2 as class 1; target 1: 1 as class 0, 3 right; target 2: none, but
        # 4 pixels of target 0 were predicted as class 2.
        scores = iou_from_confusion(torch.tensor([[6, 2, 4], [1, 3, 0], [0, 0, 0]]))
        iou = [6 / (12 + 7 - 6), 3 / (4 + 5 - 3)]  # hits / (target + predicted - hits)
        acc = [6 / 12, 3 / 4]
        assert scores.iou[:2].tolist() == pytest.approx(iou, abs=1e-15)
        assert scores.acc[:2].tolist() == pytest.approx(acc, abs=1e-15)
        assert scores.iou[2].isnan() and scores.acc[2].isnan()
        assert scores.miou == pytest.approx(sum(iou) / 2, abs=1e-15)
        assert scores.macc == pytest.approx(sum(acc) / 2, abs=1e-15)
        assert scores.aacc == pytest.approx(9 / 16, abs=1e-15)
        assert scores.fwiou == pytest.approx((12 * iou[0] + 4 * iou[1]) / 16, abs=1e-15)

    def test_equals_sets_of_pixels(self):
        generator = torch.Generator().manual_seed(5)
        target = torch.randint(0, 6, (400,), generator=generator)
        prediction = torch.where(
            torch.rand(400, generator=generator) < 0.6,
            target,
            torch.randint(0, 7, (400,), generator=generator),  # class 6 has no ground truth
        )
        scores = iou_from_confusion(confusion_matrix(prediction, target, 7))
        ious = []
        for c in range(6):
            truth = {i for i in range(400) if target[i] == c}
            found = {i for i in range(400) if prediction[i] == c}
            ious.append(len(truth & found) / len(truth | found))
            assert scores.acc[c].item() == pytest.approx(len(truth & found) / len(truth), abs=1e-15)
        assert scores.iou[:6].tolist() == pytest.approx(ious, abs=1e-15)
        assert scores.miou == pytest.approx(sum(ious) / 6, abs=1e-15)
        assert scores.iou.dtype == torch.float64

    def test_perfect_and_wrong(self):
        assert iou_from_confusion(torch.diag(torch.tensor([5, 1, 9])))[2:] == (1, 1, 1, 1)
        assert iou_from_confusion(torch.tensor([[0, 3], [2, 0]]))[2:] == (0, 0, 0, 0)

    def test_nothing_counted_is_nan(self):
        scores = iou_from_confusion(torch.zeros(3, 3, dtype=torch.int64))
        assert all(math.isnan(value) for value in scores[2:])
        assert scores.iou.isnan().all()

    def test_counts_beyond_float32(self):
        # 2^24 + 1 pixels and one error: float32 would call this class perfect.
        scores = iou_from_confusion(torch.tensor([[2**24, 1], [0, 5]]))
        assert scores.acc[0].item() == 2**24 / (2**24 + 1) < 1

    @pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
    def test_bad_shape(self, shape):
        with pytest.raises(ValueError, match="expected a square"):
            iou_from_confusion(torch.zeros(shape))
