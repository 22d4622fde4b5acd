# SPDX-License-Identifier: Apache-2.0
"""Records and mappers of a training, and the checks whether data sets and model belong together."""

import logging
from collections.abc import Callable, Iterable, Sequence

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
    SemanticSegmentor,
)

from longtail.data.datasets.alignment import align_classes
from longtail.data.datasets.classes import class_names
from longtail.data.formats.images import read_image, read_label_map
from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.data.mappers.instances import InstanceDatasetMapper
from longtail.data.mappers.registry import MAPPER_REGISTRY
from longtail.data.mappers.sem_seg import SemSegDatasetMapper
from longtail.data.statistics.counting import class_metadata
from longtail.modeling.classification import ImageClassifier
from longtail.utils.names import registered

# By the type of a data set: what reads it, and the kind of its classes with the model's part that
# has as many. The others are detectors.
MAPPERS = {"sem_seg": SemSegDatasetMapper, "classification": ClassificationDatasetMapper}
HEADS = {"sem_seg": "SEM_SEG_HEAD", "classification": "CLASSIFIER"}
# What a data set of a type is for, and the models that it is for.
TASKS = {
    "sem_seg": "semantic segmentation",
    "classification": "image classification",
    "lvis": "object detection",
    "coco": "object detection",
}
MODELS = {
    "semantic segmentation": SemanticSegmentor,
    "image classification": ImageClassifier,
    "object detection": GeneralizedRCNN,
}
# Classes that a warning names.
SHOWN = 5


def training_records(cfg: CfgNode) -> list[dict]:
    """The records of ``DATASETS.TRAIN`` in detectron2's format.

    For image classification a warning names the classes without images.

    Raises:
        ValueError: as :func:`check_training_sets`; objects are to be trained on and there is no
            list of them; or masks that objects do not have, or not in the form of
            INPUT.MASK_FORMAT.
    """
    check_training_sets(cfg)
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    # Some data sets know their classes once they are loaded.
    check_classes(cfg, cfg.DATASETS.TRAIN)
    _check_annotated(cfg, records)
    _check_masks(cfg, "DATASETS.TRAIN", records)
    _check_mask_format(cfg, records)
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
    """Build the function that reads and augments a record of this data set.

    Raises:
        ValueError: INPUT.MAPPER names one that is not registered, or INPUT.ALBUMENTATIONS is not
            possible.
        ImportError: albumentations is needed and not installed.
    """
    if cfg.INPUT.MAPPER:
        return registered(MAPPER_REGISTRY, cfg.INPUT.MAPPER, "INPUT.MAPPER")(cfg, is_train)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if is_train and kind not in MAPPERS and cfg.INPUT.ALBUMENTATIONS:
        raise ValueError(
            f"INPUT.ALBUMENTATIONS is for label maps and image classification, but {dataset_name} "
            "is for detection: leave it empty, or name a mapper of your own in INPUT.MAPPER"
        )
    return MAPPERS.get(kind, InstanceDatasetMapper)(cfg, is_train)


def check_classes(cfg: CfgNode, names: Iterable[str]) -> None:
    """Compare the classes of data sets with those of the model's head.

    Args:
        cfg: read for NUM_CLASSES of the head that a data set is for, and of semantic segmentation
            for IGNORE_VALUE.
        names: registered data sets, whose classes are known.

    Raises:
        ValueError: a data set has another number of classes than the model, or another ignored
            label.
    """
    for name in names:
        metadata = MetadataCatalog.get(name)
        head = HEADS.get(metadata.get("evaluator_type"), "ROI_HEADS")
        classes = class_names(name, read=False)
        num_classes = cfg.MODEL[head].NUM_CLASSES
        if len(classes) != num_classes:
            raise ValueError(
                f"{name} has {len(classes)} classes, but MODEL.{head}.NUM_CLASSES is {num_classes}"
            )
        ignored = metadata.get("ignore_label", 255)
        if head == "SEM_SEG_HEAD" and ignored != cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE:
            raise ValueError(
                f"{name} ignores the label {ignored}, but MODEL.SEM_SEG_HEAD.IGNORE_VALUE is "
                f"{cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE}: set it to {ignored}, or register the data "
                "set with the other ignore_label"
            )


def check_training_sets(cfg: CfgNode) -> list[str]:
    """Compare the data sets of ``DATASETS.TRAIN`` with the model and with each other.

    Those whose classes come in another order than the first one's are mapped, see
    :func:`~longtail.data.datasets.alignment.align_classes`. A data set that knows its classes
    without being read is not read.

    Returns:
        The names of the classes, in the order of the model.

    Raises:
        ValueError: no data set is named, one is not registered, is for another task, or has other
            classes than the model or the first one.
        OSError: as reading a data set that does not know its classes.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set to train on")
    first, *others = cfg.DATASETS.TRAIN
    for name in cfg.DATASETS.TRAIN:
        check_task(cfg, name, "DATASETS.TRAIN")
    classes = class_names(first)
    for name in others:
        align_classes(name, classes, first, for_training=True)
    check_classes(cfg, cfg.DATASETS.TRAIN)
    return classes


def check_test_sets(
    cfg: CfgNode,
    build_evaluator: Callable[[CfgNode, str], DatasetEvaluator] | None,
    classes: Sequence[str] = (),
) -> None:
    """Open ``DATASETS.TEST`` before a training, which may take days, instead of after it.

    Every data set is read as in testing, and gets its evaluator; of its files the first is opened.

    Args:
        cfg: the complete config.
        build_evaluator: as testing builds it, of the config and a data set's name. None looks
            only at what is known of the data sets without reading them.
        classes: names of the model's classes, to which those of the data sets are mapped; empty if
            they are not known yet.

    Raises:
        ValueError: one is not registered, is for another task, has other classes than the model,
            no image, or bad files; or has no evaluator.
        OSError: a folder or file is missing.
    """
    for name in cfg.DATASETS.TEST:
        check_task(cfg, name, "DATASETS.TEST")
        if build_evaluator is None:
            if class_names(name, read=False):
                check_classes(cfg, [name])
            continue
        records = DatasetCatalog.get(name)
        if not records:
            raise ValueError(f"{name} has no images: there is nothing to evaluate on")
        if classes:
            align_classes(name, classes, f"the model of {cfg.DATASETS.TRAIN[0]}")
        check_classes(cfg, [name])
        check_first_files(cfg, records)
        _check_masks(cfg, name, records)
        build_evaluator(cfg, name)


def align_test_sets(cfg: CfgNode, weights: str, classes: Sequence[str]) -> None:
    """Let ``DATASETS.TEST`` number their classes as trained weights do.

    Args:
        cfg: read for DATASETS.
        weights: where they come from, for the message.
        classes: the names that they carry. Without any, those of the training set are taken, if
            they are known without reading it.

    Raises:
        ValueError: a data set has other classes.
    """
    owner = f"the weights {weights}"
    if not classes and cfg.DATASETS.TRAIN and cfg.DATASETS.TRAIN[0] in DatasetCatalog.list():
        owner = cfg.DATASETS.TRAIN[0]
        classes = class_names(owner, read=False)
    for name in cfg.DATASETS.TEST if classes else ():
        align_classes(name, classes, owner)


def check_task(cfg: CfgNode, name: str, key: str) -> None:
    """Refuse a data set for another task than the model's, where both are known.

    Args:
        cfg: read for MODEL.META_ARCHITECTURE.
        name: a registered data set.
        key: where it is named, for the message.

    Raises:
        ValueError: the tasks differ, or the data set or the architecture is not registered.
    """
    task, own = TASKS.get(class_metadata(name).get("evaluator_type")), model_task(cfg)
    if task and own and task != own:
        architecture = cfg.MODEL.META_ARCHITECTURE
        raise ValueError(
            f"{key}: {name} is for {task}, but MODEL.META_ARCHITECTURE {architecture} is for "
            f"{own}: name data sets of one task, or the config of a model for this one"
        )


def model_task(cfg: CfgNode) -> str | None:
    """The task that a model is for, one of :data:`MODELS`; None for others.

    Args:
        cfg: read for MODEL.META_ARCHITECTURE.

    Raises:
        ValueError: the architecture is not registered.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    model = registered(META_ARCH_REGISTRY, name, "MODEL.META_ARCHITECTURE")
    # Panoptic models are of two tasks.
    known = isinstance(model, type) and not issubclass(model, PanopticFPN)
    return next((task for task, kind in MODELS.items() if known and issubclass(model, kind)), None)


def check_first_files(cfg: CfgNode, records: Sequence[dict]) -> None:
    """Read the first image of a data set and its label map.

    Args:
        cfg: read for INPUT.FORMAT.
        records: in detectron2's format, at least one.

    Raises:
        ValueError: a file is not an image, or not a label map.
        FileNotFoundError: a file is missing.
    """
    read_image(records[0]["file_name"], cfg.INPUT.FORMAT)
    if "sem_seg_file_name" in records[0]:
        read_label_map(records[0]["sem_seg_file_name"])


def _check_annotated(cfg: CfgNode, records: Iterable[dict]) -> None:
    """Refuse test sets, whose annotations are kept back, for training a detector."""
    if MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("evaluator_type") in HEADS:
        return
    for record in records:
        if "annotations" not in record:
            raise ValueError(
                f"{', '.join(cfg.DATASETS.TRAIN)}: {record['file_name']} comes without "
                "annotations, as in a test set: name a data set with annotations to train on"
            )


def _check_masks(cfg: CfgNode, owner: str, records: Iterable[dict]) -> None:
    """Refuse objects without masks where masks are to be trained or evaluated."""
    if not cfg.MODEL.MASK_ON:
        return
    without = [
        record["file_name"]
        for record in records
        for item in record.get("annotations") or ()
        if not item.get("iscrowd", 0) and not item.get("segmentation")
    ]
    if without:
        raise ValueError(
            f"{owner}: {len(without)} objects have no segmentation (such as one in {without[0]}), "
            "but MODEL.MASK_ON is True: set it to False to use their boxes alone"
        )


def _check_mask_format(cfg: CfgNode, records: Iterable[dict]) -> None:
    if not cfg.MODEL.MASK_ON or cfg.INPUT.MASK_FORMAT == "bitmask":
        return
    for record in records:
        for item in record.get("annotations") or ():
            if isinstance(item.get("segmentation"), dict) and not item.get("iscrowd", 0):
                raise ValueError(
                    f"an object in {record['file_name']} has an RLE, which INPUT.MASK_FORMAT "
                    f"{cfg.INPUT.MASK_FORMAT} cannot read: set it to bitmask"
                )
