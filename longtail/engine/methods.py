# SPDX-License-Identifier: Apache-2.0
"""All installed methods for data with a long tail, with the config keys that choose them."""

import inspect
from typing import Any

from longtail.config import Method, installed_projects
from longtail.config.projects import KINDS
from longtail.data.samplers.training import SAMPLER_REGISTRY
from longtail.engine.deployment.post_hoc import POST_HOC_REGISTRY
from longtail.losses import BOXES, IMAGES, PIXELS, LossTask
from longtail.losses.build import EVERYWHERE, LOSS_REGISTRY
from longtail.modeling import (
    RetrainedImageClassifier,
    RetrainedRCNN,
    RetrainedSemSegHead,
    ScaledImageClassifier,
    ScaledRCNN,
    ScaledSemSegHead,
)

FIRST_STAGE = "MODEL.WEIGHTS of the first stage"
BALANCED = "DATALOADER.SAMPLER_TRAIN ClassBalancedTrainingSampler"
REWEIGHTED = f"{PIXELS.loss_key} reweighted_cross_entropy"
ARCHITECTURE = "MODEL.META_ARCHITECTURE"
HEAD = "MODEL.SEM_SEG_HEAD.NAME"
# By the name of the method and the task: what is chosen, by which key, and with what.
SECOND_STAGES = (
    ("cRT", IMAGES, RetrainedImageClassifier, ARCHITECTURE, BALANCED),
    ("cRT", PIXELS, RetrainedSemSegHead, HEAD, REWEIGHTED),
    ("cRT", BOXES, RetrainedRCNN, ARCHITECTURE, BALANCED),
    ("BAGS", IMAGES, RetrainedImageClassifier, ARCHITECTURE, f"{IMAGES.loss_key} bags"),
    ("BAGS", BOXES, RetrainedRCNN, ARCHITECTURE, f"{BOXES.loss_key} bags"),
    ("LWS", IMAGES, ScaledImageClassifier, ARCHITECTURE, BALANCED),
    ("LWS", PIXELS, ScaledSemSegHead, HEAD, REWEIGHTED),
    ("LWS", BOXES, ScaledRCNN, ARCHITECTURE, BALANCED),
)


def all_methods() -> list[Method]:
    """Losses, samplers, methods after a training, second stages, and what projects add."""
    # First, since projects register losses and samplers, too.
    added = [method for project in installed_projects() for method in project.methods]
    found = [method for task in EVERYWHERE for method in _methods(task)] + added
    return sorted(found, key=lambda method: KINDS.index(method.kind))


def _methods(task: LossTask) -> list[Method]:
    """Those of longtail itself for a task."""
    name = task.samples
    found = [
        Method(loss, "loss", name, f"{task.loss_key} {loss}", _what(build))
        for loss, build in LOSS_REGISTRY
        if task in build.tasks
    ]
    found += [
        Method(sampler, "sampler", name, f"DATALOADER.SAMPLER_TRAIN {sampler}", _what(kind))
        for sampler, kind in SAMPLER_REGISTRY
        if task is BOXES or not kind.instances_alone
    ]
    for method, change in POST_HOC_REGISTRY:
        if task in change.tasks:
            settings = f"MODEL.POST_HOC.METHOD {method}, with --eval-only"
            found.append(Method(method, "post hoc", name, settings, _what(change)))
    for method, of_task, kind, key, more in SECOND_STAGES:
        if of_task is task:
            settings = f"{key} {kind.__name__}, {more}, {FIRST_STAGE}"
            found.append(Method(method, "second stage", name, settings, _what(kind)))
    return found


def _what(documented: Any) -> str:
    """The first line of a docstring, without the full stop."""
    return inspect.getdoc(documented).partition("\n")[0].removesuffix(".")
