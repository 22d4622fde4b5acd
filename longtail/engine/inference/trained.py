# SPDX-License-Identifier: Apache-2.0
"""Trained models: found by the folder of their run, loaded, and asked for their classes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.catalog import Metadata
from torch import nn

from longtail.config import deployed_config, installed_projects, load_config
from longtail.data.datasets.classes import check_same_order, class_names
from longtail.data.statistics.counting import class_metadata
from longtail.engine.checkpoint import CLASS_NAMES, CompleteCheckpointer
from longtail.engine.deployment.post_hoc import (
    apply_post_hoc,
    check_not_applied,
    check_training_classes,
)
from longtail.engine.run_folder import SHARDED, checkpoints
from longtail.engine.training.data_sets import model_task
from longtail.engine.training.trainer import Trainer
from longtail.utils.model_zoo import PREFIX, zoo_config
from longtail.visualization.tasks import IMAGES, OBJECTS, SEM_SEG, TASKS

CONFIG = "config.yaml"
# The kind of a model by what its architecture is for.
KINDS = {
    "semantic segmentation": SEM_SEG,
    "object detection": OBJECTS,
    "image classification": IMAGES,
}


def trained_config(
    run_or_config: str | os.PathLike | CfgNode,
    weights: str | os.PathLike | None = None,
    imports: Sequence[str] = (),
) -> CfgNode:
    """The complete config of a trained model, with MODEL.WEIGHTS set to what was trained.

    Args:
        run_or_config: the folder of a run (OUTPUT_DIR), a config file, the name of a packaged
            config, a model that comes with the package (``longtail://NAME``), or a config.
        weights: by default the newest checkpoint of the folder, or MODEL.WEIGHTS of a config.
        imports: modules of one's own that the model needs, see IMPORTS.

    Raises:
        FileNotFoundError: the folder has no config or no checkpoint, or there is no such config.
        ValueError: the config is wrong, or names no weights.
    """
    if isinstance(run_or_config, CfgNode):
        cfg = run_or_config.clone()
        cfg.defrost()
        source = "the config"
    else:
        source = os.fspath(run_or_config)
        path = source
        if source.startswith(PREFIX):
            path, weights = zoo_config(source), weights or source
        elif os.path.isdir(source):
            path = os.path.join(source, CONFIG)
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"{source} is not the folder of a run: it has no {CONFIG}; name OUTPUT_DIR of "
                    "a training, or a config file and its weights"
                )
            weights = weights or _newest_weights(source)
        # Images are predicted without the data that the model was trained on.
        cfg = load_config(path, imports=imports, register=False)
    cfg.MODEL.WEIGHTS = os.fspath(weights or cfg.MODEL.WEIGHTS)
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(f"{source} names no weights: give those that it has trained")
    cfg.freeze()
    return cfg


def _newest_weights(folder: str) -> str:
    whole = [path for path in checkpoints(folder) if path.suffix != SHARDED]
    found = [*whole, *sorted(Path(folder).glob("*.safetensors"))]
    if not found:
        raise FileNotFoundError(
            f"the run {folder} has no checkpoint (model_final.pth, model_*.pth or *.safetensors): "
            "give the weights, or let the training reach its first checkpoint"
        )
    return str(found[0])


@dataclass(frozen=True)
class TrainedModel:
    """A model as it is used, in evaluation mode.

    Attributes:
        cfg: its config for inference.
        model: with its weights and whatever MODEL.POST_HOC has changed.
        notes: what the weights' file says besides the tensors.
        data_sets: that the config names for training and testing; they need not be here.
    """

    cfg: CfgNode
    model: nn.Module
    notes: Mapping[str, Any]
    data_sets: Sequence[str]

    @property
    def class_names(self) -> list[str]:
        """The names of the classes that the weights carry; empty if they carry none."""
        names = self.notes.get(CLASS_NAMES) or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"the weights {self.cfg.MODEL.WEIGHTS} carry {CLASS_NAMES} that are no list of "
                f"names: {names!r:.60}"
            )
        return list(names)


# Parts of the names of tensors that no model may lack whose checkpoint has them, as of projects.
OWN_DEPLOYED = ("retrained_classifier.", "scaling.factor")


def load_trained(cfg: CfgNode) -> TrainedModel:
    """Build a model for inference and load MODEL.WEIGHTS into it.

    Args:
        cfg: a complete config, as it was trained with.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: they do not fill the model, have tensors of a project that it lacks, or have
            been changed by a post hoc method before.
    """
    deployed = deployed_config(cfg)
    model = Trainer.build_model(deployed).eval()
    checkpointer = CompleteCheckpointer(model)
    notes = checkpointer.load(cfg.MODEL.WEIGHTS)
    check_not_applied(cfg, notes)
    check_training_classes(cfg, notes)
    _check_nothing_is_left_out(checkpointer.unused, cfg.MODEL.WEIGHTS)
    apply_post_hoc(cfg, model)
    data_sets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    return TrainedModel(deployed, model, notes, data_sets)


def _check_nothing_is_left_out(unused: Sequence[str], weights: str) -> None:
    """Refuse weights of which the model would leave a second stage's tensors out.

    Raises:
        ValueError: the weights have tensors that cRT, LWS or a project deploys, and the model lacks
            them.
    """
    of_projects = [part for project in installed_projects() for part in project.deployed_tensors]
    parts = [*OWN_DEPLOYED, *of_projects]
    left_out = sorted(name for name in unused if any(part in name for part in parts))
    if left_out:
        raise ValueError(
            f"{weights} was trained with {left_out[0]}, which this config leaves out: give the "
            "config that it was trained with"
        )


def model_kind(cfg: CfgNode) -> str:
    """The kind of a model, one of :mod:`longtail.visualization.tasks`.

    Raises:
        ValueError: the architecture is not registered, or is of another task.
    """
    task = model_task(cfg)
    if task is None:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} is for none of "
            f"{', '.join(KINDS)}"
        )
    return KINDS[task]


def model_metadata(trained: TrainedModel, dataset: str = "") -> Metadata:
    """The names and colours of a model's classes.

    Colours are those of ``dataset`` or of the data sets of the config, where these are registered
    with the same classes; otherwise always the same ones.

    Args:
        trained: a model.
        dataset: a registered data set of the same classes; needed for weights without names.

    Returns:
        Metadata with ``stuff_classes`` of a segmentor and ``thing_classes`` of others.

    Raises:
        ValueError: the weights carry no names and no data set is named; or the names are not as
            many as the model's classes, or not those of the data set.
        OSError: the data set cannot be read.
    """
    cfg, weights = trained.cfg, trained.cfg.MODEL.WEIGHTS
    kind = model_kind(cfg)
    names = trained.class_names
    if dataset:
        given = class_names(dataset)
        if names:
            remedy = "name the data set that the weights were trained for (--dataset)"
            check_same_order(names, given, weights, dataset, remedy)
        names = given
    head = TASKS[kind].head
    number = cfg.MODEL[head].NUM_CLASSES
    if not names:
        raise ValueError(
            f"the weights {weights} do not carry the names of their classes: name a registered "
            "data set with these classes (--dataset, or Predictor(..., dataset=NAME))"
        )
    if len(names) != number:
        raise ValueError(
            f"the model has {number} classes (MODEL.{head}.NUM_CLASSES), but "
            f"{dataset or f'the weights {weights}'} {'has' if dataset else 'name'} {len(names)}"
        )
    key = "stuff" if kind == SEM_SEG else "thing"
    metadata = Metadata(name=dataset or f"the model {weights}")
    metadata.set(**{f"{key}_classes": names})
    if kind == SEM_SEG:
        metadata.set(ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    known = set(DatasetCatalog.list())
    for name in (dataset, *trained.data_sets):
        if name in known and class_names(name, read=False) == names:
            colors = class_metadata(name).get(f"{key}_colors")
            if colors:
                return metadata.set(**{f"{key}_colors": colors})
    return metadata
