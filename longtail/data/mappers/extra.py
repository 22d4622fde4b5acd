# SPDX-License-Identifier: Apache-2.0
"""Transforms of albumentations that a config names, after those of the recipe.

    INPUT:
      ALBUMENTATIONS:
        - RandomBrightnessContrast: {p: 0.3}
        - Affine: {rotate: [-10, 10], p: 0.5}

Shapes: (H, W) image size.
"""

import inspect
import os
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from longtail.utils.errors import one_line
from longtail.utils.names import registered

KEY = "INPUT.ALBUMENTATIONS"
# The range of seeds that albumentations takes.
_SEEDS = 2**31


class ExtraAugmentation:
    """A row of albumentations' transforms, of an image and its labels together.

    What is random is drawn from torch's global generator, which detectron2 seeds in every worker.
    """

    def __init__(
        self, specs: Sequence[Mapping[str, Any]], image_format: str, ignore_label: int = 255
    ) -> None:
        """Build the transforms.

        Args:
            specs: each one name of a transform, with its arguments.
            image_format: ``"RGB"`` or ``"BGR"``, of the images.
            ignore_label: of pixels that come from outside of the image.

        Raises:
            ImportError: albumentations is not installed.
            ValueError: there is no such transform, or it does not take the arguments.
        """
        albumentations = _import_albumentations()
        steps = [_build(albumentations, spec, ignore_label) for spec in specs]
        self._steps = albumentations.Compose(steps)
        self._flip = -1 if image_format == "BGR" else 1

    def __call__(
        self, image: np.ndarray, labels: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Transform an image, and its labels.

        Args:
            image: (H, W, 3) uint8.
            labels: (H, W) uint8.

        Returns:
            Both, at a size that the transforms may have changed.
        """
        seed = int(torch.randint(_SEEDS, ()))
        # One generator for all. With its set_random_seed each would draw the same numbers, and all
        # transforms of a probability would come together.
        self._steps.set_random_state(np.random.default_rng(seed), random.Random(seed))
        masks = {} if labels is None else {"mask": labels}
        found = self._steps(image=np.ascontiguousarray(image[..., :: self._flip]), **masks)
        return found["image"][..., :: self._flip], found.get("mask")


def _import_albumentations() -> Any:
    # It asks the package index for newer versions otherwise.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        import albumentations
    except ImportError:
        raise ImportError(
            f'{KEY} needs albumentations: run pip install "detectron2-longtail[albumentations]", '
            "or leave the key empty"
        ) from None
    return albumentations


def _is_transform(albumentations: Any) -> Callable[[Any], bool]:
    base = albumentations.BasicTransform
    return lambda value: inspect.isclass(value) and issubclass(value, base) and value is not base


def _build(albumentations: Any, spec: Mapping[str, Any], ignore_label: int) -> Any:
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise ValueError(
            f"{KEY} must list transforms as NAME: {{ARGUMENT: VALUE}}, such as Blur: {{p: 0.1}}, "
            f"got {spec!r}"
        )
    ((name, given),) = spec.items()
    transforms = inspect.getmembers(albumentations, _is_transform(albumentations))
    kind = registered(transforms, name, KEY)
    arguments = dict(given or {})
    outside = inspect.signature(kind).parameters.get("fill_mask")
    if outside is not None and outside.default == 0:
        # Otherwise what lies outside would be pixels of the first class.
        arguments.setdefault("fill_mask", ignore_label)
    try:
        with warnings.catch_warnings():
            # Arguments that it does not know it only warns of.
            warnings.simplefilter("error", UserWarning)
            return kind(**arguments)
    except (ValueError, TypeError, UserWarning) as error:
        raise ValueError(f"{KEY}: {name} does not take {arguments}: {one_line(error)}") from None
