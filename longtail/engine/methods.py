# SPDX-License-Identifier: Apache-2.0
"""All installed methods for data with a long tail, with the config keys that choose them."""

import inspect
from typing import Any

from longtail.config import Method, installed_projects
from longtail.config.projects import KINDS
from longtail.data.samplers.training import SAMPLER_REGISTRY
from longtail.engine.deployment.post_hoc import POST_HOC_REGISTRY
from longtail.losses import BOXES, IMAGES, LossTask
from longtail.losses.build import EVERYWHERE, LOSS_REGISTRY
from longtail.modeling.classification import RetrainedImageClassifier, ScaledImageClassifier

FIRST_STAGE = "MODEL.WEIGHTS of the first stage"
BALANCED = "DATALOADER.SAMPLER_TRAIN ClassBalancedTrainingSampler"
SECOND_STAGES = {
    "cRT": (RetrainedImageClassifier, f"{BALANCED}, {FIRST_STAGE}"),
    "LWS": (ScaledImageClassifier, f"{BALANCED}, {FIRST_STAGE}"),
}


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
        if task is IMAGES or not change.images_alone:
            settings = f"MODEL.POST_HOC.METHOD {method}, with --eval-only"
            found.append(Method(method, "post hoc", name, settings, _what(change)))
    if task is IMAGES:
        for method, (kind, settings) in SECOND_STAGES.items():
            settings = f"MODEL.META_ARCHITECTURE {kind.__name__}, {settings}"
            found.append(Method(method, "second stage", name, settings, _what(kind)))
    return found


def _what(documented: Any) -> str:
    """The first line of a docstring, without the full stop."""
    return inspect.getdoc(documented).partition("\n")[0].removesuffix(".")
