# SPDX-License-Identifier: Apache-2.0
"""Parts of a timm model that training leaves as they are."""

from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

NORMS = ("BN", "FrozenBN")


def freeze_batch_norm(model: nn.Module, path: str = "") -> None:
    """Fix statistics, scale and shift of all batch normalization in ``model.path``, in place.

    Tensors keep their names, so that checkpoints fit either way; what frozen layers lack is
    ``num_batches_tracked``. detectron2's FrozenBatchNorm2d would drop the activation of timm's
    BatchNormAct2d.

    Raises:
        ValueError: a layer normalizes something else than maps, for which there is no frozen one.
    """
    for name, module in list(model.get_submodule(path).named_modules(prefix=path)):
        if isinstance(module, _BatchNorm):
            parent, _, child = name.rpartition(".")
            frozen = freeze_batch_norm_2d(module)
            if frozen is module:
                raise ValueError(
                    f"MODEL.TIMM.NORM and FREEZE_AT: {name} is a {type(module).__name__}, which "
                    "cannot be frozen: set them to BN and 0"
                )
            model.get_submodule(parent).add_module(child, frozen)


def freeze_modules(model: nn.Module, paths: list[str]) -> None:
    """No gradient for the own parameters of these modules, fixed batch normalization; in place."""
    for path in paths:
        module = model.get_submodule(path)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        if isinstance(module, _BatchNorm):
            freeze_batch_norm(model, path)


def freeze_all(model: nn.Module) -> None:
    """No gradient for a model, fixed batch normalization; in place."""
    freeze_modules(model, [path for path, _ in model.named_modules()])


def paths_up_to_level(model: nn.Module, ends: dict[int, str], level: int) -> list[str]:
    """Paths of the modules that run before a level of a pyramid is done.

    timm registers modules in the order in which they run, which its own feature models rely on.

    Args:
        model: with these modules.
        ends: for each level, log2 of its stride in ascending order, the path of its last module.
        level: to stop after. Where the model has no level of so small a stride (that would be the
            stem), to stop before its first level's last module.

    Returns:
        Paths of modules and of their parents; all of them from the last level on.
    """
    paths = [path for path, _ in model.named_modules()]
    if level >= max(ends):
        return paths
    done = [end for known, end in ends.items() if known <= level]
    if not done:
        return paths[: paths.index(ends[min(ends)])]
    last = max(i for i, path in enumerate(paths) if f"{path}.".startswith(f"{done[-1]}."))
    return paths[: last + 1]
