# SPDX-License-Identifier: Apache-2.0
"""The predictions of one image, by task, each with the names and colours of its classes.

Shapes: K classes, D detections, (H, W) size of the image as it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.structures import Instances


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction of an image.

    Attributes:
        class_names: K names, in the order of the model.
        colors: K colours (red, green, blue), 0..255.
    """

    class_names: Sequence[str]
    colors: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class SemSegPrediction(Prediction):
    """The class of every pixel.

    Attributes:
        labels: (H, W) int64, 0..K-1.
        scores: (H, W) float32, the probability of that class; None where scores were not wanted.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class DetectionPrediction(Prediction):
    """The objects of an image.

    Attributes:
        instances: detectron2's, on the CPU and at the size of the image: ``pred_boxes`` (D corners
            x0, y0, x1, y1), ``scores`` (D,), ``pred_classes`` (D,) 0..K-1, and of a model with
            masks ``pred_masks`` (D, H, W) bool.
    """

    instances: Instances

    @property
    def names(self) -> list[str]:
        """The D names of the objects' classes."""
        return [self.class_names[k] for k in self.instances.pred_classes.tolist()]


@dataclass(frozen=True, kw_only=True)
class ClassificationPrediction(Prediction):
    """The class of an image.

    Attributes:
        probabilities: (K,) float32.
    """

    probabilities: np.ndarray

    def top(self, number: int = 5) -> list[tuple[str, float]]:
        """The names and probabilities of the best classes; of equal ones the first.

        Args:
            number: of classes; all if there are fewer.
        """
        order = np.argsort(-self.probabilities, kind="stable")[:number]
        return [(self.class_names[k], float(self.probabilities[k])) for k in order]
