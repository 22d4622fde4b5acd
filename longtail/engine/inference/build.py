# SPDX-License-Identifier: Apache-2.0
"""The model as it is run in testing."""

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from longtail.engine.inference.class_maps import ClassMapInference
from longtail.engine.inference.finite import FiniteDetections
from longtail.engine.inference.sliding_window import SlidingWindowInference
from longtail.evaluation import UnpastedInference
from longtail.modeling.sem_seg.segmentor import LongTailSemanticSegmentor, is_semantic_segmentor

MODES = ("whole", "slide")


def build_inference(
    cfg: CfgNode, model: nn.Module, *, class_maps: bool = False, unpasted: bool = False
) -> nn.Module:
    """The model as it is tested: every test, every copy of multi-scale testing, every picture.

    A semantic segmentor sees the whole image or windows of it, by ``TEST.SEM_SEG.MODE``; no
    detector may give scores or boxes that are not finite.

    Args:
        cfg: read for TEST.SEM_SEG.{MODE, CROP_SIZE, STRIDE} and MODEL.META_ARCHITECTURE.
        model: the model, as it is or in ``DistributedDataParallel``; it is not changed.
        class_maps: whether a :class:`.LongTailSemanticSegmentor`, and windows, give (H, W) classes
            instead of (K, H, W) logits, which takes a small part of the memory.
        unpasted: whether a detector's masks stay at the size of the RoIs, for what takes them so:
            :class:`.LVISEvaluator` and :class:`.CocoEvaluator` encode them without pasting.

    Raises:
        ValueError: the mode is unknown, or not for this model; or windows that are not possible.
    """
    options = cfg.TEST.SEM_SEG
    if options.MODE not in MODES:
        raise ValueError(f"TEST.SEM_SEG.MODE must be one of {list(MODES)}, got {options.MODE!r}")
    model = model.module if isinstance(model, DistributedDataParallel) else model
    if options.MODE == "slide":
        if not is_semantic_segmentor(cfg):
            raise ValueError(
                "TEST.SEM_SEG.MODE 'slide' is for semantic segmentation, not for "
                f"{cfg.MODEL.META_ARCHITECTURE}: set it to 'whole'"
            )
        windows = SlidingWindowInference(model, options.CROP_SIZE, options.STRIDE)
        return ClassMapInference(windows) if class_maps else windows
    if class_maps and isinstance(model, LongTailSemanticSegmentor):
        return ClassMapInference(model)
    if not isinstance(model, GeneralizedRCNN):
        return model
    return FiniteDetections(UnpastedInference(model) if unpasted else model)
