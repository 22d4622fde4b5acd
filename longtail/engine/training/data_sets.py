# SPDX-License-Identifier: Apache-2.0
"""Records and mappers of a training, and the check whether data sets and model belong together."""

import logging
from collections.abc import Callable, Iterable

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    get_detection_dataset_dicts,
)

from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.data.mappers.instances import InstanceDatasetMapper
from longtail.data.mappers.sem_seg import SemSegDatasetMapper
from longtail.data.statistics.counting import class_metadata

# By the type of a data set: what reads it, and the kind of its classes with the model's part that
# has as many. The others are detectors.
MAPPERS = {"sem_seg": SemSegDatasetMapper, "classification": ClassificationDatasetMapper}
CLASSES = {"sem_seg": ("stuff", "SEM_SEG_HEAD"), "classification": ("thing", "CLASSIFIER")}
# Classes that a warning names.
SHOWN = 5


def training_records(cfg: CfgNode) -> list[dict]:
    """The records of ``DATASETS.TRAIN`` in detectron2's format.

    For image classification a warning names the classes without images.

    Raises:
        ValueError: no data set is named, one is not registered, or it has another number of
            classes than the model.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set to train on")
    for name in cfg.DATASETS.TRAIN:
        class_metadata(name)
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    # Some data sets know their classes once they are loaded.
    check_classes(cfg, cfg.DATASETS.TRAIN)
    _warn_of_classes_without_images(cfg, records)
    return records


def _warn_of_classes_without_images(cfg: CfgNode, records: list[dict]) -> None:
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    if metadata.get("evaluator_type") != "classification":
        return
    present = {record["label"] for record in records}
    absent = [name for k, name in enumerate(metadata.thing_classes) if k not in present]
    if absent:
        shown = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
        logging.getLogger(__name__).warning(
            f"{', '.join(cfg.DATASETS.TRAIN)} has no image of {len(absent)} of "
            f"{len(metadata.thing_classes)} classes ({shown}): they cannot be learned, add images"
        )


def build_mapper(cfg: CfgNode, dataset_name: str, is_train: bool) -> Callable[[dict], dict]:
    """Build the function that reads and augments a record of this data set."""
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    return MAPPERS.get(kind, InstanceDatasetMapper)(cfg, is_train)


def check_classes(cfg: CfgNode, names: Iterable[str]) -> None:
    """Compare the classes of data sets with those of the model's head.

    Args:
        cfg: read for NUM_CLASSES of the head that a data set is for.
        names: registered data sets.

    Raises:
        ValueError: a data set has another number of classes than the model.
    """
    for name in names:
        classes, head = _classes(name)
        num_classes = cfg.MODEL[head].NUM_CLASSES
        if len(classes) != num_classes:
            raise ValueError(
                f"{name} has {len(classes)} classes, but MODEL.{head}.NUM_CLASSES is {num_classes}"
            )


def check_test_sets(cfg: CfgNode) -> None:
    """Look at ``DATASETS.TEST`` before a training, which may take days, instead of after it.

    Raises:
        ValueError: one is not registered, has another number of classes than the model, or is a
            bad list of images.
        OSError: a list of images, or an image in it, is missing.
    """
    for name in cfg.DATASETS.TEST:
        if class_metadata(name).get("load_labels"):
            # A list of images: cheap to read, and it may name the classes.
            DatasetCatalog.get(name)
        # Others know their classes only once they are loaded.
        if _classes(name)[0]:
            check_classes(cfg, [name])


def _classes(name: str) -> tuple[list[str], str]:
    """The names of a data set's classes, as far as known, and the part of MODEL that tells them."""
    metadata = MetadataCatalog.get(name)
    kind, head = CLASSES.get(metadata.get("evaluator_type"), ("thing", "ROI_HEADS"))
    return metadata.get(f"{kind}_classes") or [], head
