# SPDX-License-Identifier: Apache-2.0
"""The largest logit of every pixel, without the logits of all classes at once.

Shape alphabet:
    K: classes
    h, w: height and width of the image that the model reads
    H, W: height and width of the original image
"""

from functools import partial

import torch
from torch import Tensor, nn

from longtail.engine.inference.sliding_window import (
    SlidingWindowInference,
    finished_groups,
    unchanged,
)
from longtail.evaluation.metrics import check_finite
from longtail.evaluation.sem_seg.metrics import largest_logits
from longtail.modeling.sem_seg.segmentor import (
    Finish,
    LongTailSemanticSegmentor,
    at_original_size,
    original_size,
)


class ClassMapInference(nn.Module):
    """A semantic segmentor that gives the class of every pixel, equal to its logits' arg max.

    The memory for an image is that of the model, and a few bytes a pixel: 150 classes take 7.2 GB
    at 12 megapixels as logits.
    """

    def __init__(self, model: LongTailSemanticSegmentor | SlidingWindowInference) -> None:
        """Wrap a segmentor.

        Args:
            model: the segmentor, or the one that shows it windows.
        """
        super().__init__()
        self.model = model
        # detectron2's inference restores the mode that it finds here.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Segment each image.

        Args:
            batched_inputs: records with ``image`` (3, h, w), and ``height`` and ``width`` of the
                original image if that has another size.

        Returns:
            For each ``{"sem_seg": (H, W)}``, int64 classes 0..K-1.

        Raises:
            ValueError: a logit of an image is NaN, or the largest one of a pixel infinite.
        """
        if isinstance(self.model, SlidingWindowInference):
            return [{"sem_seg": self._in_windows(record)} for record in batched_inputs]
        outputs = []
        for record in batched_inputs:  # one at a time, as its maps need the memory
            maps, finish = self.logit_maps(record)
            outputs.append({"sem_seg": grouped_classes(maps, finish, _name(record))})
        return outputs

    def logit_maps(self, record: dict) -> tuple[Tensor, Finish]:
        """Logits of an image before they grow to its original size, and what makes them grow.

        Args:
            record: as of :meth:`forward`.

        Returns:
            (K, a, b), and the function from any of the classes to (k, H, W); it is linear.
        """
        if not isinstance(self.model, SlidingWindowInference):
            return self.model.logit_maps([record])[0]
        finish = partial(at_original_size, size=tuple(record["image"].shape[1:]), record=record)
        return self.model.logits(record["image"]), finish

    def _in_windows(self, record: dict) -> Tensor:
        size = tuple(record["image"].shape[1:])
        if original_size(record, size) == size:
            bands = self.model.bands(record["image"])
            return torch.cat([grouped_classes(band, unchanged, _name(record)) for band in bands])
        return grouped_classes(*self.logit_maps(record), _name(record))


def grouped_classes(maps: Tensor, finish: Finish, name: str) -> Tensor:
    """Find the class of the largest logit of every pixel; of several equal ones the first.

    Args:
        maps: (K, h', w') logits at any size.
        finish: gives (k, H, W) logits for (k, h', w') ones, each class alone.
        name: of the image, for the message.

    Returns:
        (H, W) int64.

    Raises:
        ValueError: a logit is NaN, or the largest one of a pixel infinite.
    """
    best = classes = None
    for first, logits in finished_groups(maps, finish):
        largest, group = largest_logits(logits)
        if best is None:
            best, classes = largest, group
        else:
            torch.where(largest > best, group.add_(first), classes, out=classes)
            torch.maximum(best, largest, out=best)  # NaN stays
    check_finite(best, f"{name}: logits")
    return classes


def _name(record: dict) -> str:
    return record.get("file_name", "an image")
