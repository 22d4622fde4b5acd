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

    def __init__(
        self, model: LongTailSemanticSegmentor | SlidingWindowInference, *, scores: bool = False
    ) -> None:
        """Wrap a segmentor.

        Args:
            model: the segmentor, or the one that shows it windows.
            scores: whether the probability of the class is given as well.
        """
        super().__init__()
        self.model = model
        self.scores = scores
        # detectron2's inference restores the mode that it finds here.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Segment each image.

        Args:
            batched_inputs: records with ``image`` (3, h, w), and ``height`` and ``width`` of the
                original image if that has another size.

        Returns:
            For each ``{"sem_seg": (H, W)}``, int64 classes 0..K-1, and with ``scores`` also
            ``"scores"``, (H, W) the softmax of the logits at that class.

        Raises:
            ValueError: a logit of an image is NaN, or the largest one of a pixel infinite.
        """
        if isinstance(self.model, SlidingWindowInference):
            return [self._in_windows(record) for record in batched_inputs]
        if len({record["image"].shape for record in batched_inputs}) == 1:
            maps = self.model.logit_maps(batched_inputs)
            pairs = zip(maps, batched_inputs, strict=True)
            return [self._finished(*both, record) for both, record in pairs]
        # Images of other sizes would be padded to the largest.
        return [self._finished(*self.logit_maps(record), record) for record in batched_inputs]

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

    def _in_windows(self, record: dict) -> dict[str, Tensor]:
        size = tuple(record["image"].shape[1:])
        if original_size(record, size) != size:
            return self._finished(*self.logit_maps(record), record)
        bands = self.model.bands(record["image"])
        parts = [self._finished(band, unchanged, record) for band in bands]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _finished(self, maps: Tensor, finish: Finish, record: dict) -> dict[str, Tensor]:
        name = record.get("file_name", "an image")
        if not self.scores:
            return {"sem_seg": grouped_classes(maps, finish, name)}
        classes, scores = grouped_scores(maps, finish, name)
        return {"sem_seg": classes, "scores": scores}


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
    return _grouped(maps, finish, name)[0]


def grouped_scores(maps: Tensor, finish: Finish, name: str) -> tuple[Tensor, Tensor]:
    """Find the class of the largest logit of every pixel, and its probability.

    The probability is the softmax of the K logits at that class, 1 / sum_j exp(z_j - max_k z_k).

    Args:
        maps: as of :func:`grouped_classes`.
        finish: likewise.
        name: likewise.

    Returns:
        (H, W) int64, and (H, W) in (0, 1], of the type of the logits.

    Raises:
        ValueError: likewise.
    """
    classes, total = _grouped(maps, finish, name, with_scores=True)
    return classes, 1 / total


def _grouped(
    maps: Tensor, finish: Finish, name: str, *, with_scores: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The classes, and the sum of exp(z_j - max_k z_k) if it is wanted."""
    best = classes = total = None
    for first, logits in finished_groups(maps, finish):
        largest, group = largest_logits(logits)
        higher = largest if best is None else torch.maximum(best, largest)  # NaN stays
        if with_scores:
            terms = (logits - higher).exp_().sum(dim=0)
            # What was added before was relative to a largest logit that may be surpassed.
            total = terms if total is None else terms.add_(total * (best - higher).exp_())
        if best is None:
            classes = group
        else:
            torch.where(largest > best, group.add_(first), classes, out=classes)
        best = higher
    check_finite(best, f"{name}: logits")
    return classes, total
