# SPDX-License-Identifier: Apache-2.0
"""What a trained model predicts for single images, to be drawn."""

from typing import Any

import torch
from detectron2.config import CfgNode

from longtail.config import deployed_config
from longtail.data.datasets.classes import check_same_order
from longtail.data.mappers.instances import InstanceDatasetMapper
from longtail.engine.checkpoint import CLASS_NAMES, CompleteCheckpointer
from longtail.engine.inference.build import build_inference
from longtail.engine.training.data_sets import MAPPERS, check_task
from longtail.engine.training.trainer import Trainer
from longtail.visualization.predictions import Record
from longtail.visualization.saved import Predictor
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


def model_predictor(name: str, cfg: CfgNode, weights: str, task: Task) -> Predictor:
    """Build a model as it is tested.

    Args:
        name: of the model, for messages.
        cfg: its config.
        weights: a checkpoint.
        task: of the data set, which says what is drawn.

    Returns:
        From a record, or ``{"file_name": ...}``, to what is drawn.

    Raises:
        ValueError: the weights do not fit, or are of other classes.
        FileNotFoundError: there are no weights.
    """
    cfg = deployed_config(cfg)
    model = Trainer.build_model(cfg).eval()
    try:
        names = CompleteCheckpointer(model).load(weights).get(CLASS_NAMES)
        if names:
            remedy = "name the data set that the weights were trained for (--dataset)"
            check_same_order(names, task.class_names, weights, task.dataset_name, remedy)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"model {name!r}: {error}") from None
    inference = build_inference(cfg, model, class_maps=True)
    mapper = MAPPERS.get(task.kind, InstanceDatasetMapper)(cfg, is_train=False)

    @torch.no_grad()
    def predict(record: Record) -> Any:
        try:
            return task.prediction(inference([mapper(dict(record))])[0], record)
        except ValueError as error:
            raise ValueError(f"model {name!r}: {error}") from None

    return predict
