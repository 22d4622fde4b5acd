# SPDX-License-Identifier: Apache-2.0
"""A detector whose detections have calibrated scores: ``MODEL.POST_HOC.FILE``.

The boxes are chosen by the model's own scores, and what comes out is mapped class by class: the
metrics are those of its results file with mapped scores.

Shapes: D detections of one image.
"""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from torch import nn

from longtail.data.datasets.classes import class_names
from longtail.evaluation.calibration_file import Calibration, read_calibration

METHOD = "score_calibration"
FILE = "MODEL.POST_HOC.FILE"


def check_calibration_file(cfg: CfgNode) -> None:
    """Refuse a calibration that cannot be evaluated with, before anything is loaded.

    Args:
        cfg: the complete config; nothing is checked if MODEL.POST_HOC.METHOD is another one.

    Raises:
        ValueError: no file is named, it is damaged, of other classes than DATASETS.TEST, or was
            fitted to one of them.
        OSError: it cannot be read.
    """
    if cfg.MODEL.POST_HOC.METHOD != METHOD:
        return
    calibration = _read(cfg)
    for name in cfg.DATASETS.TEST:
        calibration.check(cfg.MODEL.POST_HOC.FILE, class_names(name), cfg.DATASETS.TEST)


def calibrate_scores(cfg: CfgNode, model: nn.Module) -> None:
    """Let a detector map the scores of its detections, sorted by the new ones.

    Args:
        cfg: read for MODEL.POST_HOC.FILE and MODEL.ROI_HEADS.NUM_CLASSES.
        model: a ``GeneralizedRCNN`` with any classifier; its heads get a hook.

    Raises:
        ValueError: another model, no file, or one that is damaged or of another number of classes.
        OSError: the file cannot be read.
    """
    if not isinstance(model, GeneralizedRCNN):
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {METHOD} is for detection, not for {type(model).__name__}"
        )
    calibration = _read(cfg)
    K = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if len(calibration.maps) != K:
        raise ValueError(
            f"{FILE} {cfg.MODEL.POST_HOC.FILE} is of {len(calibration.maps)} classes, the model of "
            f"{K}: fit one to its predictions with longtail calibrate"
        )

    def mapped(
        heads: nn.Module, inputs: Any, output: tuple[list, dict]
    ) -> tuple[list, dict] | None:
        if heads.training:
            return None
        instances, losses = output
        return [_mapped(calibration, item) for item in instances], losses

    model.roi_heads.register_forward_hook(mapped)


def _mapped(calibration: Calibration, instances: Instances) -> Instances:
    classes, scores = instances.pred_classes.cpu().numpy(), instances.scores.cpu().numpy()
    instances.scores = torch.from_numpy(calibration(classes, scores)).to(instances.scores)
    return instances[instances.scores.argsort(descending=True, stable=True)]


def _read(cfg: CfgNode) -> Calibration:
    if not cfg.MODEL.POST_HOC.FILE:
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {METHOD} needs {FILE}: name what longtail calibrate has written"
        )
    return read_calibration(cfg.MODEL.POST_HOC.FILE)
