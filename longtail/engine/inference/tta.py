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


class SemanticSegmentorWithTTA(nn.Module):
    """Average a model's softmax over scaled and flipped copies of an image.

    The copies fit (MAX_SIZE_TEST, MIN_SIZE_TEST) times each of ``TEST.AUG.SCALES``, with and,
    if ``TEST.AUG.FLIP``, without a horizontal flip.
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
                probabilities = self.model([inputs])[0]["sem_seg"].softmax(dim=0)
                if flip:
                    probabilities = probabilities.flip(2)
                total = probabilities if total is None else total.add_(probabilities)
        return total.div_(len(self.resizes) * len(self.flips))
