# SPDX-License-Identifier: Apache-2.0
"""Multi-scale and flip testing for semantic segmentation.

Shape alphabet:
    K: classes
    H, W: height and width of the original image
"""

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from longtail.data.formats.images import read_image
from longtail.data.mappers.resizing import ShortestEdgeResize

# Probabilities at a time: 64 MB in float32.
_PART = 2**24


class SemanticSegmentorWithTTA(nn.Module):
    """Average a model's softmax over scaled and flipped copies of an image.

    The copies fit (MAX_SIZE_TEST, MIN_SIZE_TEST) times each of ``TEST.AUG.SCALES``, with and,
    if ``TEST.AUG.FLIP``, without a horizontal flip.

    The memory is that of two (K, H, W) maps, the sum and the logits of a copy, however many copies
    there are.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        """Wrap a segmentor and prepare one resizing for each scale.

        Args:
            cfg: read for INPUT.{MIN_SIZE_TEST, MAX_SIZE_TEST, RESIZE_FILTER, FORMAT} and
                TEST.AUG.{SCALES, FLIP}.
            model: a semantic segmentor in evaluation mode.

        Raises:
            ValueError: no scale, or one that is not positive.
        """
        super().__init__()
        if not cfg.TEST.AUG.SCALES or min(cfg.TEST.AUG.SCALES) <= 0:
            raise ValueError(
                f"TEST.AUG.SCALES must be positive numbers, got {list(cfg.TEST.AUG.SCALES)}"
            )
        self.model = model
        self.image_format = cfg.INPUT.FORMAT
        self.resizes = [
            ShortestEdgeResize(
                int(cfg.INPUT.MIN_SIZE_TEST * s),
                int(cfg.INPUT.MAX_SIZE_TEST * s),
                cfg.INPUT.RESIZE_FILTER,
            )
            for s in cfg.TEST.AUG.SCALES
        ]
        self.flips = (False, True) if cfg.TEST.AUG.FLIP else (False,)

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Segment each image from all of its copies.

        Args:
            batched_inputs: records with ``file_name``, as the test loader gives them.

        Returns:
            For each ``{"sem_seg": (K, H, W)}``, mean probabilities in [0, 1].
        """
        return [{"sem_seg": self._average(record)} for record in batched_inputs]

    @torch.no_grad()
    def _average(self, record: dict) -> Tensor:
        image = read_image(record["file_name"], self.image_format)
        height, width = image.shape[:2]
        total = None
        for resize in self.resizes:
            resized = resize.get_transform(image).apply_image(image)
            for flip in self.flips:
                copy = resized[:, ::-1] if flip else resized
                tensor = torch.as_tensor(np.ascontiguousarray(copy.transpose(2, 0, 1)))
                inputs = {"image": tensor, "height": height, "width": width}
                logits = self.model([inputs])[0]["sem_seg"]
                if total is None:
                    total = torch.zeros_like(logits, memory_format=torch.contiguous_format)
                _add_softmax(total, logits, flip)
                del logits  # before the next copy's
        return total.div_(len(self.resizes) * len(self.flips))


def _add_softmax(total: Tensor, logits: Tensor, flip: bool) -> None:
    """Add the softmax over K of (K, H, W) logits, flipped or not, in place, rows at a time.

    A probability differs from that of the whole map in its last bit at most where several parts
    are needed: by no more than 2e-7.
    """
    rows = max(1, _PART // logits[:, 0].numel())
    for start in range(0, logits.shape[1], rows):
        part = logits[:, start : start + rows].softmax(dim=0)
        total[:, start : start + rows] += part.flip(2) if flip else part
