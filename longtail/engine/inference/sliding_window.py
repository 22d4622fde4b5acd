# SPDX-License-Identifier: Apache-2.0
"""Inference in windows, for models that were trained on crops of one size.

Shape alphabet:
    K: classes
    h, w: height and width of the image that the model reads
    H, W: height and width of the original image
"""

from collections.abc import Sequence

import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along a side: every ``stride``, the last one moved back inside.

    Args:
        length: of the side, > 0.
        window: length of a window; the side itself if that is shorter.
        stride: distance of windows, 1..window.
    """
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


class SlidingWindowInference(nn.Module):
    """A semantic segmentor that sees windows of an image; where they overlap, the mean of logits.

    A window that covers the whole image gives what the segmentor gives.
    """

    def __init__(self, model: nn.Module, crop_size: Sequence[int], stride: Sequence[int]) -> None:
        """Wrap a segmentor and check that the windows leave no gaps.

        Args:
            model: a semantic segmentor, records in and ``{"sem_seg": (K, H, W)}`` logits out.
            crop_size: height and width of a window.
            stride: vertical and horizontal distance of windows, at most their size.

        Raises:
            ValueError: sizes that are not positive, or windows that would leave gaps.
        """
        super().__init__()
        for key, value in (("CROP_SIZE", crop_size), ("STRIDE", stride)):
            if len(value) != 2 or any(not isinstance(v, int) or v < 1 for v in value):
                raise ValueError(
                    f"TEST.SEM_SEG.{key} must be two positive integers, (height, width), got "
                    f"{list(value)}"
                )
        if any(s > c for s, c in zip(stride, crop_size, strict=True)):
            raise ValueError(
                f"TEST.SEM_SEG.STRIDE {list(stride)} must be at most CROP_SIZE {list(crop_size)}: "
                "the windows would leave gaps"
            )
        self.model = model
        self.crop_size = tuple(crop_size)
        self.stride = tuple(stride)
        # detectron2's inference restores the mode that it finds here.
        self.training = model.training

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Segment each image window by window.

        Args:
            batched_inputs: records with ``image`` (3, h, w), and ``height`` and ``width`` of the
                original image if that has another size.

        Returns:
            For each ``{"sem_seg": (K, H, W)}``, logits.
        """
        return [{"sem_seg": self._segment(record)} for record in batched_inputs]

    @torch.no_grad()
    def _segment(self, record: dict) -> Tensor:
        image = record["image"]
        size = tuple(image.shape[1:])
        height, width = self.crop_size
        total = count = None
        # One window at a time: the memory does not grow with the image.
        for top in window_starts(size[0], height, self.stride[0]):
            for left in window_starts(size[1], width, self.stride[1]):
                rows, columns = slice(top, top + height), slice(left, left + width)
                crop = image[:, rows, columns]
                inputs = {"image": crop, "height": crop.shape[1], "width": crop.shape[2]}
                logits = self.model([inputs])[0]["sem_seg"]
                if total is None:
                    total = logits.new_zeros(len(logits), *size)
                    count = logits.new_zeros(size)
                total[:, rows, columns] += logits
                count[rows, columns] += 1
        output = record.get("height", size[0]), record.get("width", size[1])
        return sem_seg_postprocess(total / count, size, *output)
