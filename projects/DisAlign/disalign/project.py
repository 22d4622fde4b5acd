# SPDX-License-Identifier: Apache-2.0
"""The project DisAlign, as longtail finds it."""

from typing import Any

from detectron2.config import CfgNode

from longtail.config import Folding, Method, Project
from longtail.engine.training.data_sets import training_records

from . import (  # noqa: F401  (registers)
    fast_rcnn,
    image_classifier,
    queries,
    rcnn,
    roi_heads,
    sem_seg,
)
from .calibrated import histograms
from .config import add_disalign_config
from .folding import fold_detector, fold_image_classifier, fold_queries, fold_segmentor
from .roi_cache import build_roi_cache_loader


def roi_cache_loader(cfg: CfgNode) -> Any:
    """A loader of cached features with ``MODEL.DISALIGN.ROI_FEATURE_CACHE``, otherwise None."""
    if not cfg.MODEL.DISALIGN.ROI_FEATURE_CACHE:
        return None
    return build_roi_cache_loader(cfg, training_records(cfg))


PROJECT = Project(
    name="DisAlign",
    add_config=add_disalign_config,
    head_keys=("MODEL.DISALIGN.BASE_HEAD_NAME",),
    deployed_tensors=("calibration.",),
    train_loader=roi_cache_loader,
    histograms=histograms,
    foldings=(
        Folding(
            "MODEL.META_ARCHITECTURE",
            "DisAlignImageClassifier",
            baseline=lambda cfg: "ImageClassifier",
            fold=fold_image_classifier,
        ),
        Folding(
            "MODEL.META_ARCHITECTURE",
            "DisAlignRCNN",
            baseline=lambda cfg: "GeneralizedRCNN",
            fold=fold_detector,
        ),
        Folding(
            "MODEL.SEM_SEG_HEAD.NAME",
            "DisAlignSemSegHead",
            baseline=lambda cfg: cfg.MODEL.DISALIGN.BASE_HEAD_NAME,
            fold=fold_segmentor,
        ),
        Folding(
            "MODEL.SEM_SEG_HEAD.NAME",
            "DisAlignQueryHead",
            baseline=lambda cfg: cfg.MODEL.DISALIGN.BASE_HEAD_NAME,
            fold=fold_queries,
        ),
    ),
    methods=tuple(
        Method(
            name,
            "second stage",
            task,
            f"{setting}, MODEL.WEIGHTS of the first stage",
            f"Learn an input-dependent calibration of a frozen {model}'s scores",
        )
        for name, task, setting, model in (
            ("DisAlign", "images", "MODEL.META_ARCHITECTURE DisAlignImageClassifier", "model"),
            ("DisAlign", "pixels", "MODEL.SEM_SEG_HEAD.NAME DisAlignSemSegHead", "model"),
            (
                *("DisAlign of queries", "pixels"),
                *("MODEL.SEM_SEG_HEAD.NAME DisAlignQueryHead", "Mask2Former"),
            ),
            ("DisAlign", "boxes", "MODEL.META_ARCHITECTURE DisAlignRCNN", "model"),
        )
    ),
)
