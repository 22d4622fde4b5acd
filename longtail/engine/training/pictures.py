# SPDX-License-Identifier: Apache-2.0
"""Pictures and histograms in a training's log, made at each evaluation."""

import copy
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from longtail.config import installed_projects
from longtail.engine.inference.build import build_inference
from longtail.engine.training.data_sets import build_mapper
from longtail.visualization.tasks import build_task, task_kind

# Objects with lower scores are not drawn.
MIN_SCORE = 0.5


class LogPictures:
    """Predictions for a few fixed test images, and the distributions that projects name."""

    def __init__(self, cfg: CfgNode) -> None:
        """Take the config.

        Args:
            cfg: read for LOG.WRITERS, LOG.TENSORBOARD.{IMAGES, HISTOGRAMS} and what testing reads.

        Raises:
            ValueError: nothing can be drawn of a test set.
        """
        self._cfg = cfg
        there = "tensorboard" in cfg.LOG.WRITERS
        self._count = cfg.LOG.TENSORBOARD.IMAGES if there else 0
        self._histograms = there and cfg.LOG.TENSORBOARD.HISTOGRAMS
        self._records: dict[str, list[dict[str, Any]]] = {}
        if self._count:
            for name in cfg.DATASETS.TEST:
                task_kind(name)

    def put(self, model: nn.Module, storage: EventStorage) -> None:
        """Put all into the storage.

        Args:
            model: that is trained.
            storage: of the training.
        """
        model = model.module if isinstance(model, DistributedDataParallel) else model
        if self._count:
            with inference_context(model), torch.no_grad():
                for name in self._cfg.DATASETS.TEST:
                    self._draw(model, storage, name)
        if self._histograms:
            for project in installed_projects():
                for name, values in project.histograms(model).items():
                    values = values.detach().float().flatten()
                    # Of one value there is no histogram.
                    if len(values) and values.min() < values.max():
                        storage.put_histogram(name, values.cpu(), bins=64)

    def _draw(self, model: nn.Module, storage: EventStorage, name: str) -> None:
        if name not in self._records:
            records = DatasetCatalog.get(name)
            step = max(len(records) // self._count, 1)
            self._records[name] = records[::step][: self._count]
        task = build_task(name, MIN_SCORE)
        mapper = build_mapper(self._cfg, name, is_train=False)
        inference = build_inference(self._cfg, model)
        for record in self._records[name]:
            (output,) = inference([mapper(copy.deepcopy(record))])
            image, truth = task.read(record)
            columns = {"prediction": task.prediction(output, record)}
            picture = task.picture(image, truth, columns)
            stem = Path(record["file_name"]).stem
            storage.put_image(f"{name}/{stem}", picture.transpose(2, 0, 1))
