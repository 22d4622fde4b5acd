# SPDX-License-Identifier: Apache-2.0
"""What a trained model predicts for single images, to be drawn."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from longtail.data.datasets.classes import check_same_order
from longtail.data.formats.headers import check_annotated_size, read_header
from longtail.data.formats.images import read_image
from longtail.engine.inference.predictor import Predictor
from longtail.engine.training.data_sets import check_task
from longtail.visualization.predictions import Record
from longtail.visualization.saved import Drawn
from longtail.visualization.tasks import Task


def check_model(name: str, cfg: CfgNode, task: Task) -> None:
    """Compare a model's task and number of classes with a data set's, before it is built.

    Args:
        name: of the model, for the message.
        cfg: its config.
        task: of the data set.

    Raises:
        ValueError: they differ.
    """
    check_task(cfg, task.dataset_name, f"--model {name}")
    predicted = cfg.MODEL[task.head].NUM_CLASSES
    if predicted != len(task.class_names):
        raise ValueError(
            f"model {name!r} has {predicted} classes (MODEL.{task.head}.NUM_CLASSES), but "
            f"{task.dataset_name} has {len(task.class_names)}: name the data set it was trained "
            "for (--dataset), and picture models for other data sets on their own"
        )


def open_model(name: str, cfg: CfgNode, weights: str, dataset: str = "") -> Predictor:
    """Build a model as it is tested.

    Args:
        name: of the model, for messages.
        cfg: its config.
        weights: a checkpoint.
        dataset: whose classes it must have; without one, the weights have to name theirs.

    Raises:
        ValueError: the weights do not fit, are not there, or are of other classes.
    """
    try:
        return Predictor(cfg, weights, dataset=dataset)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"model {name!r}: {error}") from None


def check_same_models(models: Mapping[str, Predictor]) -> None:
    """Refuse models of several tasks, or of other classes than the first one's.

    Args:
        models: by their names, at least one.

    Raises:
        ValueError: they differ.
    """
    (first, reference), *others = models.items()
    for name, model in others:
        remedy = "picture models of other classes on their own"
        if model.kind != reference.kind:
            raise ValueError(f"models {first!r} and {name!r} are for different tasks: {remedy}")
        names = model.class_names, reference.class_names
        check_same_order(*names, f"model {name!r}", f"model {first!r}", remedy)


def drawn(name: str, model: Predictor, task: Task) -> Drawn:
    """What is drawn of a model's predictions.

    Args:
        name: of the model, for messages.
        model: the model.
        task: which says what is drawn.

    Returns:
        From a record, or ``{"file_name": ...}``, to what is drawn.
    """

    def predict(record: Record) -> Any:
        file = record["file_name"]
        if "height" in record and "width" in record:
            check_annotated_size(file, (record["height"], record["width"]), read_header(file))
        try:
            (output,) = model.outputs([read_image(file, "RGB")], [file])
            return task.prediction(output, record)
        except ValueError as error:
            raise ValueError(f"model {name!r}: {error}") from None

    return predict
