# SPDX-License-Identifier: Apache-2.0
r"""Low-rank adapters (LoRA) of linear layers and convolutions of a timm model, by the library peft.

A layer W x + b becomes, with A (r, in) and B (out, r) that alone are trained,

.. math::

    W x + b + \frac{\alpha}{r} B A x

B starts at 0, so that the model starts as it is without adapters (Hu et al., ICLR 2022).

In checkpoints a layer's own tensors keep their names, and A and B stand beside them as
``lora_A.weight`` and ``lora_B.weight``: a checkpoint of the model without adapters starts one with.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

NODE = "MODEL.TIMM.LORA"
# A part of the names of all A in checkpoints.
LORA_A = ".lora_A."
# peft's names inside of a layer, and those in checkpoints.
INNER = {
    "lora_A.default.": "lora_A.",
    "lora_B.default.": "lora_B.",
    "base_layer.": "",
}
# Names of layers that an error proposes.
SHOWN = 8


@dataclass(frozen=True)
class Lora:
    """The adapters of a model; names and meaning as in ``peft.LoraConfig``.

    Attributes:
        r: rank, >= 1.
        lora_alpha: alpha > 0.
        target_modules: the ends of the names of layers, such as ``qkv`` or ``mlp.fc1``.
    """

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Lora | None":
        """Read MODEL.TIMM.LORA; None if it is not enabled.

        Raises:
            ValueError: R or LORA_ALPHA is not positive.
        """
        node = cfg.MODEL.TIMM.LORA
        if not node.ENABLED:
            return None
        if node.R < 1:
            raise ValueError(
                f"{NODE}.R must be a rank >= 1, got {node.R}: set it to 8, or {NODE}.ENABLED to "
                "False"
            )
        if not node.LORA_ALPHA > 0:
            raise ValueError(f"{NODE}.LORA_ALPHA must be > 0, got {node.LORA_ALPHA}")
        return cls(node.R, node.LORA_ALPHA, tuple(node.TARGET_MODULES))


def add_lora(name: str, model: nn.Module, lora: Lora) -> None:
    """Put adapters on layers of a model, in place; only they have a gradient then.

    Args:
        name: timm's name of the model, for errors.
        model: any.
        lora: which ones.

    Raises:
        ImportError: peft is missing.
        ValueError: no layer has a name of ``target_modules``, or something else than a linear layer
            or a convolution has it.
    """
    _check_targets(name, model, lora.target_modules)
    if importlib.util.find_spec("peft") is None:
        raise ImportError(f"{NODE} needs the package peft: pip install 'detectron2-longtail[lora]'")
    # It takes seconds.
    import peft

    config = peft.LoraConfig(
        r=lora.r, lora_alpha=lora.lora_alpha, target_modules=list(lora.target_modules)
    )
    model.requires_grad_(False)
    peft.inject_adapter_in_model(config, model)
    model._register_state_dict_hook(_hide)
    model.register_load_state_dict_pre_hook(_restore)
    model.register_load_state_dict_post_hook(_report)


@torch.no_grad()
def check_used(name: str, backbone: nn.Module, side: int) -> None:
    """Run a model once, to see that it calls all layers that have adapters.

    Some attentions read a layer's weight and never call it: adapters would be without effect.

    Args:
        name: timm's name of the model, for errors.
        backbone: around the model; its mode is what it was afterwards.
        side: height and width of the image, in pixels.

    Raises:
        ValueError: a layer was not called.
    """
    unused = dict(_adapted(backbone))
    handles = [
        layer.register_forward_hook(lambda *_, path=path: unused.pop(path, None) and None)
        for path, layer in list(unused.items())
    ]
    training = backbone.training
    try:
        parameter = next(backbone.parameters())
        backbone.eval()(parameter.new_zeros(1, 3, side, side))
    finally:
        backbone.train(training)
        for handle in handles:
            handle.remove()
    if unused:
        first = next(iter(unused)).removeprefix("model.")
        raise ValueError(
            f"{NODE}.TARGET_MODULES: {name} computes {first} without calling the "
            "layer, an adapter would have no effect: name others, such as proj, fc1 and fc2"
        )


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    r"""Replace adapted layers by plain ones, in place: W + alpha / r B A in the place of W."""
    for path, layer in list(_adapted(model)):
        layer.merge()
        parent, _, child = path.rpartition(".")
        model.get_submodule(parent).add_module(child, layer.get_base_layer())


def _check_targets(name: str, model: nn.Module, targets: Sequence[str]) -> None:
    layers = {path: layer for path, layer in model.named_modules() if path}
    possible = sorted(
        {path.rpartition(".")[2] for path, layer in layers.items() if _has_low_rank(layer)}
    )
    shown = ", ".join(possible[:SHOWN])
    if not targets:
        raise ValueError(f"{NODE}.TARGET_MODULES is empty: name layers of {name}, some of {shown}")
    for target in targets:
        # As peft compares them.
        found = [m for path, m in layers.items() if f".{path}".endswith(f".{target}")]
        if not found:
            raise ValueError(
                f"{NODE}.TARGET_MODULES: {name} has no layer {target!r}: its linear layers and "
                f"convolutions are called {shown}"
            )
        if wrong := next((m for m in found if not _has_low_rank(m)), None):
            raise ValueError(
                f"{NODE}.TARGET_MODULES: {target!r} is a {type(wrong).__name__} in {name}, "
                f"expected linear layers or convolutions without groups, which are called {shown}"
            )


def _has_low_rank(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _adapted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Paths and layers with adapters."""
    for path, layer in model.named_modules():
        if hasattr(layer, "lora_A") and hasattr(layer, "get_base_layer"):
            yield path, layer


def _hide(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Names of checkpoints in the place of peft's; the order stays."""
    outer = {inner: name for name, inner in _names(model, prefix).items()}
    items = list(state_dict.items())
    state_dict.clear()
    state_dict.update((outer.get(name, name), tensor) for name, tensor in items)


def _restore(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    # For the report, which is not told.
    model.loaded_prefix = prefix
    for name, inner in _names(model, prefix).items():
        if name in state_dict:
            state_dict[inner] = state_dict.pop(name)


def _report(model: nn.Module, incompatible: tuple) -> None:
    outer = {inner: name for name, inner in _names(model, model.loaded_prefix).items()}
    for names in (incompatible.missing_keys, incompatible.unexpected_keys):
        names[:] = [outer.get(name, name) for name in names]


def _names(model: nn.Module, prefix: str) -> dict[str, str]:
    """Names of tensors in checkpoints -> those that peft gives them, of all adapted layers."""
    names = {}
    for path, layer in _adapted(model):
        for inner, _ in (*layer.named_parameters(), *layer.named_buffers()):
            start = next((part for part in INNER if inner.startswith(part)), "")
            short = f"{INNER.get(start, '')}{inner[len(start) :]}"
            names[f"{prefix}{path}.{short}"] = f"{prefix}{path}.{inner}"
    return names


def check_lora(cfg: CfgNode, model: nn.Module) -> None:
    """Refuse adapters for a model whose backbone does not read them, and would train as a whole.

    Args:
        cfg: read for MODEL.TIMM.LORA.ENABLED and MODEL.BACKBONE.NAME.
        model: what was built by it.

    Raises:
        ValueError: adapters are asked for, and there are none.
    """
    has_adapters = any(LORA_A in f".{name}" for name, _ in model.named_parameters())
    if cfg.MODEL.TIMM.LORA.ENABLED and not has_adapters:
        raise ValueError(
            f"{NODE}.ENABLED True is for timm's backbones, {cfg.MODEL.BACKBONE.NAME} does not read "
            "it: set it to False"
        )
