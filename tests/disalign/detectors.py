# SPDX-License-Identifier: Apache-2.0
"""Small detectors of every kind that can be a first and a second stage."""

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from longtail.engine import Trainer
from tests.tiny_detection import CASCADE, detector_inputs

CLASSIFIER = "MODEL.ROI_BOX_HEAD.CLASSIFIER"
# Options of both stages; their keys are the kinds of detectors.
KINDS = {
    "mask-linear": [],
    "mask-cosine": [CLASSIFIER, "cosine"],
    "cascade-linear": CASCADE,
    "cascade-cosine": [*CASCADE, CLASSIFIER, "cosine"],
}
CASCADES = ("cascade-linear", "cascade-cosine")


def randomize(model: torch.nn.Module) -> None:
    """Give the scores, the boxes and the batch statistics some spread, in place."""
    images = model.preprocess_image(detector_inputs(4, seed=5)).tensor
    with torch.no_grad():
        # Batch statistics: a random network whose own are 0 and 1 amplifies without bounds.
        for _ in range(10):
            model.backbone(images)
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if name.endswith("cls_score.weight"):
                parameter.copy_(0.1 * noise)
            elif name.endswith("bbox_pred.weight"):
                parameter.copy_(0.01 * noise)
            elif "rpn_head" in name and name.endswith("weight"):
                parameter.mul_(3)


def disturb(model: torch.nn.Module, seed: int = 3) -> torch.nn.Module:
    """Move the calibrations of a model away from the identity, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".calibration." in name or name.startswith("calibration."):
                # The confidence is to stay between 0 and 1.
                spread = 0.1 if "confidence" in name else 0.5
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model


def start(cfg: CfgNode) -> Trainer:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    return trainer


def predictions(model: torch.nn.Module, inputs: list[dict] | None = None) -> list[Instances]:
    model.eval()
    with torch.no_grad():
        return [output["instances"] for output in model(inputs or detector_inputs())]


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers, those outside checkpoints too."""
    everything = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in everything}


def is_learned(name: str) -> bool:
    return ".calibration." in name
