# SPDX-License-Identifier: Apache-2.0
"""Inference in windows, for models that were trained on crops of one size.

Shape alphabet:
    K: classes
    h, w: height and width of the image that the model reads
    H, W: height and width of the original image
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from longtail.modeling.sem_seg.segmentor import (
    Finish,
    LongTailSemanticSegmentor,
    at_original_size,
)

# Logits of a group of classes at their last size: 64 MB in float32, or those of these few classes.
# Smaller groups cost time, as each is followed by work on whole planes.
_GROUP_LOGITS, _FEWEST = 2**24, 6


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along a side: every ``stride``, the last one moved back inside.

    Args:
        length: of the side, > 0.
        window: length of a window; the side itself if that is shorter.
        stride: distance of windows, 1..window.
    """
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def finished_groups(maps: Tensor, finish: Finish) -> Iterator[tuple[int, Tensor]]:
    """Bring logits to their last size, as many classes at a time as fit into a bounded memory.

    Args:
        maps: (K, h', w') logits at any size.
        finish: gives (k, h, w) logits for (k, h', w') ones, each class alone.

    Yields:
        The first class of a group, and its (k, h, w) logits.
    """
    first, count = 0, 1  # how large a class is shows with the first one
    while first < len(maps):
        # Memory formats with the classes innermost are slow to resize in parts.
        logits = finish(maps[first : first + count].contiguous())
        yield first, logits
        first += count
        count = max(_FEWEST, _GROUP_LOGITS * count // logits.numel())


def unchanged(logits: Tensor) -> Tensor:
    """Finish logits that have their last size already."""
    return logits


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

    def _segment(self, record: dict) -> Tensor:
        logits = self.logits(record["image"])
        return at_original_size(logits, logits.shape[1:], record)

    @torch.no_grad()
    def logits(self, image: Tensor) -> Tensor:
        """Mean logits at the size of the image, summed up in place.

        The memory is that of the result and of the window that is seen: not of its logits at its
        full size, but of a group of classes, see :func:`finished_groups`.

        Args:
            image: (3, h, w).

        Returns:
            (K, h, w).
        """
        total = count = None
        for rows, columns in self.windows(image):
            maps, finish = window_maps(self.model, image[:, rows, columns])
            if total is None:
                total = maps.new_zeros(len(maps), *image.shape[1:])
                count = maps.new_zeros(total.shape[1:])
            _add(total[:, rows, columns], maps, finish)
            count[rows, columns] += 1
        return total.div_(count)

    @torch.no_grad()
    def bands(self, image: Tensor) -> Iterator[Tensor]:
        """Mean logits from top to bottom, each pixel as soon as its last window has been seen.

        The memory is that of one window and of one row of them: it does not grow with the height.

        Args:
            image: (3, h, w).

        Yields:
            (K, rows, w) logits, which are overwritten afterwards; their rows add up to h.
        """
        rows, width = self._sides(image, 0), image.shape[2]
        ends = [*(part.start for part in rows[1:]), image.shape[1]]
        total = count = None
        for part, end in zip(rows, ends, strict=True):
            for columns in self._sides(image, 1):
                maps, finish = window_maps(self.model, image[:, part, columns])
                if total is None:
                    total = maps.new_zeros(len(maps), part.stop - part.start, width)
                    count = maps.new_zeros(total.shape[1:])
                _add(total[..., columns], maps, finish)
                count[:, columns] += 1
            done = end - part.start
            yield total[:, :done].div_(count[:done])
            for sums in (total, count):
                _move_up(sums, done)

    def windows(self, image: Tensor) -> list[tuple[slice, slice]]:
        """Rows and columns of the windows of a (3, h, w) image."""
        return list(itertools.product(self._sides(image, 0), self._sides(image, 1)))

    def _sides(self, image: Tensor, axis: int) -> list[slice]:
        """The windows along the height (0) or the width (1) of (3, h, w)."""
        length, window = image.shape[1 + axis], self.crop_size[axis]
        starts = window_starts(length, window, self.stride[axis])
        return [slice(start, min(start + window, length)) for start in starts]


def window_maps(model: nn.Module, crop: Tensor) -> tuple[Tensor, Finish]:
    """The logits of a window, and what brings them to its size.

    Args:
        model: a semantic segmentor.
        crop: (3, h, w).

    Returns:
        (K, a, b) logits, and the function from any of their classes (k, a, b) to (k, h, w).
    """
    inputs = {"image": crop, "height": crop.shape[1], "width": crop.shape[2]}
    if isinstance(model, LongTailSemanticSegmentor):
        return model.logit_maps([inputs])[0]
    return model([inputs])[0]["sem_seg"], unchanged


def _add(total: Tensor, maps: Tensor, finish: Finish) -> None:
    """Add a window's logits to (K, rows, columns), a group of classes at a time."""
    for first, logits in finished_groups(maps, finish):
        total[first : first + len(logits)] += logits


def _move_up(sums: Tensor, rows: int) -> None:
    """Drop the first rows of (..., height, w) in place, and append as many zeros."""
    height = sums.shape[-2]
    # Parts that do not overlap with where they go: a copy of all would need the memory again.
    for start in range(0, height - rows, rows):
        stop = min(start + rows, height - rows)
        sums[..., start:stop, :] = sums[..., start + rows : stop + rows, :]
    sums[..., height - rows :, :] = 0
