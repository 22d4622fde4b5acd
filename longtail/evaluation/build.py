# SPDX-License-Identifier: Apache-2.0
"""The choice of a data set's evaluator by the type in its metadata."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

from longtail.evaluation.base import LongTailEvaluator
from longtail.evaluation.classification.evaluator import ClassificationEvaluator
from longtail.evaluation.coco import CocoEvaluator
from longtail.evaluation.lvis.evaluator import LVISEvaluator
from longtail.evaluation.provenance import provenance
from longtail.evaluation.sem_seg.evaluator import SemSegEvaluator


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_dir: str | None = None
) -> DatasetEvaluator:
    """Build the evaluator for ``dataset_name``.

    Args:
        cfg: the complete config; reports hold it.
        dataset_name: a registered data set; ``evaluator_type`` in its metadata is ``"sem_seg"``,
            ``"classification"``, ``"coco"`` or ``"lvis"``.
        output_dir: where the evaluator writes its results; nothing is written without it.

    Returns:
        The evaluator, to be given to detectron2's ``inference_on_dataset``.

    Raises:
        ValueError: the data set is not registered or is of another type.
    """
    if dataset_name not in DatasetCatalog.list():
        raise ValueError(f"no evaluator: data set {dataset_name!r} is not registered")
    metadata = MetadataCatalog.get(dataset_name)
    evaluator_type = metadata.get("evaluator_type", None)
    named = metadata.get("training_set")
    training_sets = cfg.DATASETS.TRAIN if named is None else (named,)
    builders = {
        "sem_seg": lambda: SemSegEvaluator(
            dataset_name,
            output_dir=output_dir,
            training_sets=training_sets,
            write_predictions=cfg.TEST.SEM_SEG.WRITE_PREDICTIONS,
        ),
        "classification": lambda: ClassificationEvaluator(
            dataset_name,
            output_dir=output_dir,
            training_sets=cfg.DATASETS.TRAIN,
            write_predictions=cfg.TEST.CLASSIFICATION.WRITE_PREDICTIONS,
        ),
        "coco": lambda: _coco(cfg, dataset_name, output_dir, training_sets),
        "lvis": lambda: LVISEvaluator(
            dataset_name,
            output_dir=output_dir,
            modes=cfg.TEST.LVIS.MODES,
            keep_all_detections=cfg.TEST.LVIS.KEEP_ALL_DETECTIONS,
            training_sets=training_sets,
            write_precision=cfg.TEST.LVIS.WRITE_PRECISION,
            decisions=cfg.TEST.LVIS.DECISIONS,
        ),
    }
    if evaluator_type not in builders:
        raise ValueError(
            f"no evaluator for data set {dataset_name!r} of type {evaluator_type!r}: set "
            f"evaluator_type in its metadata to one of {', '.join(builders)}"
        )
    evaluator = builders[evaluator_type]()
    if isinstance(evaluator, LongTailEvaluator):
        evaluator.provenance = provenance(cfg)
        evaluator.max_iter = cfg.SOLVER.MAX_ITER
    return evaluator


def _coco(
    cfg: CfgNode, name: str, output_dir: str | None, training_sets: Sequence[str]
) -> DatasetEvaluator:
    if cfg.MODEL.KEYPOINT_ON or cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
        # Keypoints and proposals are detectron2's.
        return COCOEvaluator(name, output_dir=output_dir)
    return CocoEvaluator(name, output_dir, training_sets)
