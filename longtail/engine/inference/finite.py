# SPDX-License-Identifier: Apache-2.0
"""Detectors whose predictions must be finite: detectron2 leaves those out that are not."""

from typing import Any

import torch
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import nn

from longtail.evaluation.metrics import check_finite

WATCHED = (StandardRPNHead, FastRCNNOutputLayers)


class FiniteDetections(nn.Module):
    """An R-CNN that refuses NaN and infinite scores and boxes before they are left out.

    Without it, weights that are all NaN find nothing, and are given an AP of 0.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the layers that give scores and boxes.

        Args:
            model: a detector, as it is or in a wrapper; it is not changed.
        """
        super().__init__()
        self.model = model
        self._watched = [m for m in model.modules() if isinstance(m, WATCHED)]
        # detectron2's inference restores the mode that it finds here.
        self.training = model.training

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give what the model gives.

        Args:
            batched_inputs: detectron2's dicts.

        Raises:
            ValueError: a score or a box of a proposal or of a detection is not finite.
        """
        names = ", ".join(str(record.get("file_name")) for record in batched_inputs)

        def check(module: nn.Module, inputs: Any, outputs: Any) -> None:
            for tensor in _tensors(outputs):
                check_finite(tensor, f"{names}: outputs of {type(module).__name__}")

        # For this call alone: the model may go on training.
        handles = [module.register_forward_hook(check) for module in self._watched]
        try:
            return self.model(batched_inputs)
        finally:
            for handle in handles:
                handle.remove()


def _tensors(outputs: Any) -> list[torch.Tensor]:
    """The tensors of nested lists, tuples and dicts; what else a predictor gives is skipped."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if not isinstance(outputs, (list, tuple)):
        return []
    return [tensor for part in outputs for tensor in _tensors(part)]
