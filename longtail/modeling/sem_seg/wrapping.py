# SPDX-License-Identifier: Apache-2.0
"""The common part of heads that wrap another head, which the config names.

Shape alphabet: see :mod:`.sem_seg.base`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from longtail.utils.names import registered

from .query_decoders import MaskFeatures

BASE_PREFIX = "base_head."


class SemSegHeadWrapper(nn.Module):
    """A head around another one, which may be a wrapper itself.

    In checkpoints the wrapped head's tensors carry the names that they have without the wrapper,
    so that checkpoints with and without it load into each other. A subclass sets the two
    attributes below, and is built by a config with :meth:`build_base_head`.
    """

    # The node of MODEL with the keys BASE_HEAD_NAME and PIXEL_CLASSIFIER.
    config_node: str
    # The wrapper's own submodule; all others in a checkpoint are the wrapped head's.
    own_module: str

    def __init__(self, base_head: nn.Module, pixel_classifier: str) -> None:
        """Wrap a head and hide the wrapper from the names in checkpoints.

        Args:
            base_head: a head with detectron2's interface, ``head(features, targets)`` giving
                (logits, losses), and an attribute ``ignore_value``.
            pixel_classifier: name of the submodule that maps pixel features to classes, of the
                head inside all wrappers; it is, or begins with, a convolution to the classes (and
                may hold its dropout).

        Raises:
            ValueError: there is no such submodule.
        """
        super().__init__()
        self.base_head = base_head
        self.ignore_value = base_head.ignore_value
        self.pixel_classifier = pixel_classifier
        self.pixel_channels = self._input_channels()
        self._register_state_dict_hook(_hide_wrapper)
        self.register_load_state_dict_pre_hook(_restore_wrapper)
        self.register_load_state_dict_post_hook(_report_without_wrapper)

    @classmethod
    def build_base_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
        """The head that ``BASE_HEAD_NAME`` names.

        Raises:
            ValueError: nothing has that name, or what has it cannot be wrapped.
        """
        key = f"MODEL.{cls.config_node}.BASE_HEAD_NAME"
        name = cfg.MODEL[cls.config_node].BASE_HEAD_NAME
        if cls.__name__ == name:
            raise ValueError(f"{key} must name the head to wrap, got {cls.__name__} itself")
        head = registered(SEM_SEG_HEADS_REGISTRY, name, key)
        if hasattr(head, "trained_module_names"):
            raise ValueError(
                f"{key} must name a head of a first stage, got {name}: the second stage's is "
                "MODEL.SEM_SEG_HEAD.NAME"
            )
        return head(cfg, input_shape)

    def __getattr__(self, name: str) -> Any:
        """Also the wrapped head's modules: fvcore looks modules up by the names in checkpoints."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            module = getattr(self.__dict__.get("_modules", {}).get("base_head"), name, None)
            if isinstance(module, nn.Module):
                return module
            raise

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """The wrapped head's (N, K, H, W) logits, not resized, if it has such a method."""
        return self.base_head.layers(features)

    @contextmanager
    def classifier_hook(self, hook: Callable[[Tensor, Tensor], Tensor | None]) -> Iterator[None]:
        """While the context is open, exactly one call of the pixel classifier is expected.

        Args:
            hook: takes what enters the classifier (N, C, H, W) and what it gives (N, K, H, W); a
                result other than None replaces the latter.

        Raises:
            RuntimeError: when the context ends, and the classifier did not run once.
        """
        calls = 0

        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            nonlocal calls
            calls += 1
            return hook(inputs[0], output)

        handle = self._classifier().register_forward_hook(count)
        try:
            yield
        finally:
            handle.remove()
        if calls != 1:
            raise RuntimeError(
                f"the pixel classifier {self.pixel_classifier!r} ran {calls} times in one forward "
                f"pass, expected once: set MODEL.{self.config_node}.PIXEL_CLASSIFIER to a module "
                "that runs once"
            )

    def _classifier(self) -> nn.Module:
        head = innermost(self)
        try:
            return head.get_submodule(self.pixel_classifier)
        except AttributeError:
            known = ", ".join(child for child, _ in head.named_children())
            raise ValueError(
                f"{type(head).__name__} has no pixel classifier {self.pixel_classifier!r}: set "
                f"MODEL.{self.config_node}.PIXEL_CLASSIFIER to the submodule that maps pixel "
                f"features to classes (its children are: {known})"
            ) from None

    def _input_channels(self) -> int:
        classifier = self._classifier()
        for module in classifier.modules():
            if isinstance(module, (nn.Conv2d, MaskFeatures)):
                return module.in_channels
        raise ValueError(
            f"MODEL.{self.config_node}.PIXEL_CLASSIFIER names {self.pixel_classifier!r}, a "
            f"{type(classifier).__name__} without a convolution: name the module that holds the "
            "1x1 convolution to the classes"
        )


def innermost(head: nn.Module) -> nn.Module:
    """The head inside all wrappers."""
    while isinstance(head, SemSegHeadWrapper):
        head = head.base_head
    return head


def _hide_wrapper(
    module: SemSegHeadWrapper, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> dict[str, Tensor]:
    for key in [k for k in state_dict if k.startswith(prefix + BASE_PREFIX)]:
        state_dict[_without_wrapper(key, prefix)] = state_dict.pop(key)
    return state_dict


def _restore_wrapper(
    module: SemSegHeadWrapper, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    # For the report, which is not told.
    module.loaded_prefix = prefix
    for key in [k for k in state_dict if k.startswith(prefix)]:
        name = key[len(prefix) :]
        if not name.startswith((f"{module.own_module}.", BASE_PREFIX)):
            state_dict[prefix + BASE_PREFIX + name] = state_dict.pop(key)


def _report_without_wrapper(module: SemSegHeadWrapper, incompatible: tuple) -> None:
    """Missing and unexpected tensors under the names that they have in checkpoints, in place."""
    for names in (incompatible.missing_keys, incompatible.unexpected_keys):
        names[:] = [_without_wrapper(name, module.loaded_prefix) for name in names]


def _without_wrapper(name: str, prefix: str) -> str:
    start = prefix + BASE_PREFIX
    return prefix + name[len(start) :] if name.startswith(start) else name
