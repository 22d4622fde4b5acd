# SPDX-License-Identifier: Apache-2.0
"""The additions of projects to longtail, and the projects that are installed.

A project is a package that registers one :class:`Project` under the entry-point group
``longtail.projects``::

    entry_points={"longtail.projects": ["mine = mine.project:PROJECT"]}

The module that is named there also imports what registers the project's models and data sets: it
is loaded with the first config. A project's commands are entry points of their own, see
:mod:`longtail.commands`. longtail knows no project by name.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeVar

from detectron2.config import CfgNode
from torch import Tensor, nn

GROUP = "longtail.projects"
Value = TypeVar("Value")


def get_value(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key such as ``MODEL.SEM_SEG_HEAD.NAME``."""
    return functools.reduce(lambda node, name: node[name], key.split("."), cfg)


def set_value(cfg: CfgNode, key: str, value: Any) -> None:
    """Replace the value of a dotted key, in place."""
    parent, _, name = key.rpartition(".")
    (get_value(cfg, parent) if parent else cfg)[name] = value


@dataclass(frozen=True)
class Folding:
    """A trained part that becomes a part of the baseline's weights, for deployment.

    Attributes:
        key: config key that turns the part on, such as ``MODEL.META_ARCHITECTURE``.
        value: what the key then says.
        baseline: from a config to what the key says in the baseline's.
        fold: changes the model in place, so that its tensors include those of a baseline that
            computes the same; raises a ValueError where there is none.
    """

    key: str
    value: str | bool
    baseline: Callable[[CfgNode], str | bool]
    fold: Callable[[nn.Module], None]


KINDS = ("loss", "sampler", "training branch", "post hoc", "second stage")


@dataclass(frozen=True)
class Method:
    """A method for data with a long tail, for one task, as ``longtail methods`` lists it.

    Attributes:
        name: as in papers, or as in the config.
        kind: of ``KINDS``.
        task: ``"images"``, ``"pixels"`` or ``"boxes"``.
        settings: the config keys that choose it, with their values.
        what: one sentence without full stop.
    """

    name: str
    kind: str
    task: str
    settings: str
    what: str


@dataclass(frozen=True)
class Project:
    """The additions of one project.

    Attributes:
        name: of the project, in messages.
        add_config: adds its keys to a config, in place.
        deployed_heads: semantic heads that only training has: the config key, by the head's
            registered name, that names the head which is left for inference.
        head_keys: further config keys that name a semantic head.
        training_tensors: what the names of tensors begin with that only training has.
        deployed_tensors: a part of the names of tensors that no deployed model may lack whose
            checkpoint has them.
        train_loader: from a complete config to the data loader that its training reads, or None
            for the usual one.
        foldings: parts that can be folded into a baseline's weights.
        methods: its methods, for the list of all.
        histograms: from a model that is trained to values, by name, whose distribution is logged.
    """

    name: str
    add_config: Callable[[CfgNode], None]
    deployed_heads: Mapping[str, str] = field(default_factory=dict)
    head_keys: tuple[str, ...] = ()
    training_tensors: tuple[str, ...] = ()
    deployed_tensors: tuple[str, ...] = ()
    train_loader: Callable[[CfgNode], Any] = lambda cfg: None
    foldings: tuple[Folding, ...] = ()
    methods: tuple[Method, ...] = ()
    histograms: Callable[[nn.Module], Mapping[str, Tensor]] = lambda model: {}


@functools.cache
def installed_projects() -> tuple[Project, ...]:
    """All projects that are installed, in the order of their entry points' names.

    Raises:
        ValueError: one cannot be imported, or is not a :class:`Project`.
    """
    projects = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            project = point.load()
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"the project {point.name} ({point.value}) cannot be imported: {error}; repair or "
                "uninstall it"
            ) from error
        if not isinstance(project, Project):
            raise ValueError(
                f"the project {point.name}: {point.value} must be a longtail.config.Project, got "
                f"{type(project).__name__}"
            )
        projects.append(project)
    return tuple(projects)


def deployed_state(state: Mapping[str, Value]) -> dict[str, Value]:
    """The tensors of a checkpoint that are left for inference.

    Args:
        state: tensors by their names, of a model as it is trained.
    """
    prefixes = tuple(p for project in installed_projects() for p in project.training_tensors)
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}
