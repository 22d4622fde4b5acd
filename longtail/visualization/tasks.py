# SPDX-License-Identifier: Apache-2.0
"""How the images of a data set are read, drawn and compared, by the data set's task.

Shapes: K classes, (H, W) image size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata

from longtail.data.formats.images import read_image, read_label_map, read_pair
from longtail.data.statistics.counting import class_metadata
from longtail.evaluation.sem_seg.metrics import as_class_map
from longtail.visualization.comparison import comparison
from longtail.visualization.differences import (
    disagreement_share,
    top1_difference,
    unmatched,
)
from longtail.visualization.instances import comparison_of_objects
from longtail.visualization.painting import stuff_colors, thing_colors
from longtail.visualization.predictions import (
    Objects,
    Ranking,
    Record,
    objects_of_output,
    objects_of_record,
    ranking_of_output,
)
from longtail.visualization.rankings import comparison_of_rankings

SEM_SEG = "sem_seg"
OBJECTS = "objects"
IMAGES = "classification"
# By evaluator_type in the metadata.
KINDS = {SEM_SEG: SEM_SEG, IMAGES: IMAGES, "lvis": OBJECTS, "coco": OBJECTS}


class Task(ABC):
    """What is drawn of a data set."""

    # One of KINDS' values; the part of the config that has NUM_CLASSES; what difference() measures.
    kind: str
    head: str
    measure: str

    def __init__(self, metadata: Metadata, min_score: float = 0.0) -> None:
        """Look the classes and colours up.

        Args:
            metadata: of a data set that was read, so that its classes are known; or of a model.
            min_score: objects with lower scores are not drawn.
        """
        self.dataset_name: str = metadata.name
        self.metadata = metadata
        self.min_score = min_score
        self.class_names: list[str] = list(self.metadata.thing_classes)
        self.colors = thing_colors(self.metadata)

    def read(self, record: Record) -> tuple[np.ndarray, Any]:
        """The (H, W, 3) image of a record in RGB, and its ground truth or None."""
        return read_image(record["file_name"], "RGB"), self.truth(record)

    def truth(self, record: Record) -> Any:
        """The ground truth of a record that needs no further file, if it is known."""
        return None

    @abstractmethod
    def prediction(self, output: Mapping[str, Any], record: Record) -> Any:
        """What is drawn of a model's output for an image."""

    @abstractmethod
    def picture(
        self,
        image: np.ndarray,
        truth: Any,
        predictions: Mapping[str, Any],
        *,
        highlight: bool = False,
    ) -> np.ndarray:
        """Draw image, ground truth and predictions, by the name of their column, side by side."""

    @abstractmethod
    def difference(self, predictions: Mapping[str, Any], record: Record) -> float:
        """How much predictions of an image differ, see :mod:`.differences`."""


class SemSegTask(Task):
    """Label maps (H, W)."""

    kind, head = SEM_SEG, "SEM_SEG_HEAD"
    measure = "by the share of their pixels"

    def __init__(self, metadata: Metadata, min_score: float = 0.0) -> None:
        """As :class:`Task`."""
        self.dataset_name = metadata.name
        self.metadata = metadata
        self.class_names = list(self.metadata.stuff_classes)
        self.colors = stuff_colors(self.metadata)
        self.ignore_label = self.metadata.get("ignore_label", 255)

    def read(self, record: Record) -> tuple[np.ndarray, Any]:
        """Read the image and its label map."""
        if record.get("sem_seg_file_name") is None:
            return super().read(record)
        files = record["file_name"], record["sem_seg_file_name"]
        return read_pair(*files, "RGB", "prepare the data set again")

    def prediction(self, output: Mapping[str, Any], record: Record) -> np.ndarray:
        """The class of every pixel."""
        return as_class_map(output["sem_seg"], record["file_name"]).cpu().numpy()

    def picture(
        self,
        image: np.ndarray,
        truth: np.ndarray | None,
        predictions: Mapping[str, np.ndarray],
        *,
        highlight: bool = False,
    ) -> np.ndarray:
        """Paint label maps."""
        classes = self.class_names, self.colors, self.ignore_label
        return comparison(image, truth, predictions, *classes, highlight=highlight)

    def difference(self, predictions: Mapping[str, np.ndarray], record: Record) -> float:
        """The share of the pixels."""
        label_file = record.get("sem_seg_file_name")
        target = None if label_file is None else read_label_map(label_file)
        return disagreement_share(list(predictions.values()), target, self.ignore_label)


class ObjectsTask(Task):
    """Objects: boxes, and masks if there are any."""

    kind, head = OBJECTS, "ROI_HEADS"
    measure = "by the number of detections that another column does not have"

    def truth(self, record: Record) -> Objects | None:
        """The annotations."""
        return objects_of_record(record)

    def prediction(self, output: Mapping[str, Any], record: Record) -> Objects:
        """The detections with a high score."""
        return objects_of_output(output["instances"], self.min_score, record["file_name"])

    def picture(
        self,
        image: np.ndarray,
        truth: Objects | None,
        predictions: Mapping[str, Objects],
        *,
        highlight: bool = False,
    ) -> np.ndarray:
        """Draw boxes and masks."""
        classes = self.class_names, self.colors
        return comparison_of_objects(image, truth, predictions, *classes, highlight=highlight)

    def difference(self, predictions: Mapping[str, Objects], record: Record) -> float:
        """The number of detections that another column does not have."""
        return float(sum(each.sum() for each in unmatched(list(predictions.values()))))


class ImagesTask(Task):
    """The classes of images."""

    kind, head = IMAGES, "CLASSIFIER"
    measure = "by the mean score of the best classes"

    def truth(self, record: Record) -> int | None:
        """The label."""
        return record.get("label")

    def prediction(self, output: Mapping[str, Any], record: Record) -> Ranking:
        """The best classes."""
        return ranking_of_output(output["scores"], record["file_name"])

    def picture(
        self,
        image: np.ndarray,
        truth: int | None,
        predictions: Mapping[str, Ranking],
        *,
        highlight: bool = False,
    ) -> np.ndarray:
        """Draw bars."""
        classes = self.class_names, self.colors
        return comparison_of_rankings(image, truth, predictions, *classes, highlight=highlight)

    def difference(self, predictions: Mapping[str, Ranking], record: Record) -> float:
        """How sure columns are of different classes."""
        return top1_difference(list(predictions.values()))


TASKS = {task.kind: task for task in (SemSegTask, ObjectsTask, ImagesTask)}


def task_kind(dataset_name: str) -> str:
    """One of the values of :data:`KINDS`.

    Raises:
        ValueError: the data set is not registered, or is of another type.
    """
    metadata = class_metadata(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in KINDS and metadata.get("stuff_classes"):
        return SEM_SEG
    if kind not in KINDS:
        raise ValueError(
            f"data set {dataset_name!r} is of the type {kind!r}, of which nothing is drawn: set "
            f"evaluator_type in its metadata to one of {', '.join(KINDS)}"
        )
    return KINDS[kind]


def build_task(dataset_name: str, min_score: float = 0.0) -> Task:
    """The task of a data set.

    Args:
        dataset_name: a registered data set that was read.
        min_score: objects with lower scores are not drawn.

    Raises:
        ValueError: as :func:`task_kind`.
    """
    return task_of(task_kind(dataset_name), class_metadata(dataset_name), min_score)


def task_of(kind: str, metadata: Metadata, min_score: float = 0.0) -> Task:
    """The task of a kind, with these classes.

    Args:
        kind: one of the values of :data:`KINDS`.
        metadata: as of :class:`Task`.
        min_score: objects with lower scores are not drawn.
    """
    return TASKS[kind](metadata, min_score)
