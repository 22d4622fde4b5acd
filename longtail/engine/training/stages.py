# SPDX-License-Identifier: Apache-2.0
"""Second stages: a trained model is frozen, and some modules of it are trained.

A model is a second stage if it, or its semantic head, has the attribute ``trained_module_names``,
the names that the trained submodules have in their parents. All else stays bit for bit as
``MODEL.WEIGHTS`` has it. It may also have ``remedies``: what to do about weights with an unexpected
tensor, by a part of its name.
"""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate
from torch import nn

from longtail.engine.checkpoint import Checkpointer, frozen_parts

# Problems that an error about weights spells out.
SHOWN = 5


def is_second_stage(model: nn.Module) -> bool:
    """Tell whether only a part of the model is to be trained."""
    return _declaring(model) is not None


def _declaring(model: nn.Module) -> nn.Module | None:
    """The module that says what is trained."""
    modules = (model, getattr(model, "sem_seg_head", None))
    return next((m for m in modules if getattr(m, "trained_module_names", ())), None)


def trained_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a second stage that are trained, by their full names.

    Raises:
        ValueError: the model has none of the modules that it names.
    """
    declaring = _declaring(model)
    names = declaring.trained_module_names
    found = {name: m for name, m in model.named_modules() if name.rpartition(".")[2] in names}
    if not found:
        raise ValueError(
            f"{type(declaring).__name__} trains the modules {', '.join(names)} and has none of them"
        )
    return found


def freeze(model: nn.Module) -> None:
    """Freeze a second stage, in place: no gradients, and no buffer moves.

    Normalisation layers outside the trained modules are in evaluation mode whenever the model
    runs, whatever ``model.train()`` was called since.

    Args:
        model: a second stage, see the head of this module.
    """
    trained = trained_modules(model)
    model.requires_grad_(False)
    for module in trained.values():
        module.requires_grad_(True)
    model.register_forward_pre_hook(evaluate_frozen_modules)


def evaluate_frozen_modules(model: nn.Module, inputs: Any = None) -> None:
    """Put the frozen modules of a second stage into evaluation mode; a forward pre-hook.

    Args:
        model: a second stage.
        inputs: of the forward; not used.
    """
    trained = trained_modules(model)
    for name, module in model.named_modules():
        inside = any(f"{name}.".startswith(f"{other}.") for other in trained)
        # A module around a trained one has to know that it is training.
        around = not name or any(other.startswith(f"{name}.") for other in trained)
        if not (inside or around):
            module.training = False


def trained_parameters_report(model: nn.Module) -> str:
    """List what is trained, tensor by tensor, and what is frozen, with parameter counts."""
    trained = [
        (n, tuple(p.shape), p.numel()) for n, p in model.named_parameters() if p.requires_grad
    ]
    frozen = frozen_parts(model)
    rows = [*trained, *((part, "frozen", count) for part, count in frozen.items())]
    total = sum(count for *_, count in trained)
    return (
        f"second stage: {total:,} parameters are trained, {sum(frozen.values()):,} are frozen\n"
        + tabulate(rows, headers=["tensor", "shape", "parameters"], intfmt=",")
    )


def frozen_parameters_line(model: nn.Module) -> str:
    """How many parameters of a first stage are trained and frozen, and where the latter are."""
    frozen = frozen_parts(model)
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return (
        f"{total:,} parameters are trained, {sum(frozen.values()):,} are frozen "
        f"({', '.join(frozen)})"
    )


class SecondStageCheckpointer(Checkpointer):
    """Loads the first stage's checkpoint, or one of the second stage, and nothing else."""

    missing_remedy = "train the first stage, or set MODEL.WEIGHTS to its checkpoint"
    same_classes = True

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint that has every frozen tensor, and all of the trained ones or none.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: no file is named; or the checkpoint lacks tensors, has others, or has them
                in another shape; or is a first stage's, to be resumed; or as
                :meth:`.Checkpointer.load`.
        """
        if not path:
            raise ValueError(
                "a second stage starts from the first stage's checkpoint: set MODEL.WEIGHTS to it"
            )
        try:
            return super().load(path, *args, **kwargs)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"the first stage's weights {path} do not exist: train the config that this one "
                "is based on, or set MODEL.WEIGHTS to its checkpoint"
            ) from None

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        shapes = {name: (given, own) for name, given, own in incompatible.incorrect_shapes}
        # What has another shape was taken out before loading, so it is missing as well.
        missing = set(incompatible.missing_keys) - set(shapes)
        parameters: set[str] = set()
        tensors: set[str] = set()
        for name, module in trained_modules(self.model).items():
            parameters |= {f"{name}.{key}" for key, _ in module.named_parameters()}
            tensors |= {f"{name}.{key}" for key in module.state_dict()}
        # Old checkpoints of detectron2 have them; they come from the config.
        unexpected = set(incompatible.unexpected_keys) - {"pixel_mean", "pixel_std"}
        # The state of the first stage's class loss, where the second one has another: what is
        # frozen computes the same without it.
        unexpected = {name for name in unexpected if ".class_loss." not in f".{name}"}
        # A first stage has none of the trained parameters. Not "missing == tensors": whatever else
        # is missing would be lost among them, and BatchNorm never misses its num_batches_tracked.
        if parameters <= missing:
            if self.resuming:
                raise ValueError(
                    f"{self.save_dir} holds a first stage, which a second one cannot resume: set "
                    "OUTPUT_DIR to another folder"
                )
            missing -= tensors
        problems = [
            *(f"{n} has shape {g}, the model {o}" for n, (g, o) in sorted(shapes.items())),
            *(f"{name} is missing" for name in sorted(missing)),
            *(f"{name} is unexpected" for name in sorted(unexpected)),
        ]
        if problems:
            more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise ValueError(
                f"the weights are not those of this model's first stage: "
                f"{'; '.join(problems[:SHOWN])}{more}. {self._remedy(unexpected)}"
            )

    def _remedy(self, unexpected: set[str]) -> str:
        """The remedy that the second stage names for tensors that it knows, or in general."""
        for part, remedy in getattr(_declaring(self.model), "remedies", {}).items():
            if any(part in name for name in unexpected):
                return remedy
        return "Set MODEL.WEIGHTS to a checkpoint of the config that this second stage is based on"


def load_second_stage(model: nn.Module, weights: str, class_names: Sequence[str] = ()) -> None:
    """Freeze a second stage, load a checkpoint into it, and bring it into its mode for training.

    For what uses the frozen modules outside a training, such as a feature cache.

    Args:
        model: a second stage.
        weights: a checkpoint of the first or the second stage.
        class_names: of the training set, to be those of the checkpoint; empty if not known.

    Raises:
        As :meth:`SecondStageCheckpointer.load`.
    """
    freeze(model)
    checkpointer = SecondStageCheckpointer(model)
    checkpointer.class_names = class_names
    checkpointer.load(weights)
    model.train()
    evaluate_frozen_modules(model)
