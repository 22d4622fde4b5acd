# SPDX-License-Identifier: Apache-2.0
"""Class weights, calibration, loss and log of the calibrated classifiers of all tasks.

Shape alphabet:
    C: channels of the classifier's input feature
    K: classes (foreground classes in detection)
    D: K, or K + 1 with the background of detection
    S: samples: RoIs or images
    N, h, w: images, height and width of label maps
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from longtail.losses import ClassLoss
from longtail.losses.cross_entropy import cross_entropy
from longtail.losses.reduction import NO_LABEL, total_weight

from .calibration import AdaptiveCalibration, log_calibration

# The modules that the second stage trains; everything else is frozen
# (longtail.engine.training.stages).
TRAINED = ("calibration",)
# Decay would pull alpha to 0, away from the identity: with the recipe for LVIS to 0.85 for a class
# that never occurs.
NO_DECAY = ("alpha", "beta")


def check_softmax(class_loss: ClassLoss, key: str) -> None:
    """Refuse a first stage that a calibration cannot follow.

    Args:
        class_loss: the first stage's.
        key: the config key that names it.

    Raises:
        ValueError: its probabilities are not a softmax of the logits.
    """
    if not class_loss.is_softmax:
        raise ValueError(
            "DisAlign aligns the probabilities of a softmax, and the first stage's loss "
            f"{type(class_loss).__name__} gives none: train it with another {key}, such as "
            "cross_entropy, or seesaw with MODEL.CLASS_LOSS.SEESAW_OBJECTNESS False"
        )


class Calibrated(nn.Module):
    """A classifier, or what holds one, whose scores are calibrated (Eq. 5) and aligned (Eq. 9).

    Its constructor calls :meth:`add_calibration`; that gives the attributes.

    Attributes:
        calibration: alpha, beta and sigma(x), all that is learned and that checkpoints hold.
        class_weights: (D,) w_c of Eq. 11; the background's is 1.
        class_groups: class indices by frequency group, for the log.
        weighted_mean: whether the loss is sum(w l) / sum(w), or sum(w l) / S as printed in Eq. 9.
        recorded: None, or a list to which each training step adds its sigma and ground truth
            classes, for analyses.
    """

    recorded: list[tuple[Tensor, Tensor]] | None = None

    def add_calibration(
        self,
        num_classes: int,
        in_features: int,
        *,
        class_weights: Tensor,
        class_groups: Mapping[str, Sequence[int]],
        weighted_mean: bool,
        calibration: Mapping[str, Any] | None,
        classes_key: str,
        background: bool = False,
    ) -> None:
        """Add the calibration, and register the weights of its loss.

        Args:
            num_classes: K.
            in_features: C.
            class_weights: (K,) w_c of Eq. 11.
            class_groups: classes by the name of their group, see the attributes.
            weighted_mean: how the loss is normalized, see the attributes.
            calibration: options of :class:`.AdaptiveCalibration` by name; by default its own.
            classes_key: config key of K, for the message.
            background: whether the last of D scores is the background's.

        Raises:
            ValueError: weights of another length than the number of classes, or a calibration
                that learns nothing.
        """
        weights = torch.as_tensor(class_weights, dtype=torch.float32)
        if weights.shape != (num_classes,):
            raise ValueError(
                f"class_weights must have shape ({num_classes},), got {tuple(weights.shape)}: "
                f"{classes_key} and the training set do not belong together"
            )
        if background:
            weights = torch.cat([weights, weights.new_ones(1)])
        # They belong to the data, not to the weights: they stay out of checkpoints.
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_groups = {name: list(classes) for name, classes in class_groups.items()}
        self.weighted_mean = weighted_mean
        self.calibration = AdaptiveCalibration(num_classes, in_features, **(calibration or {}))

    def alignment_loss(
        self, logits: Tensor, classes: Tensor, ignore_label: int = NO_LABEL
    ) -> Tensor:
        """:func:`.functional.alignment_loss` of samples, or of the valid pixels of maps.

        Args:
            logits: (S, D), or (N, D, h, w), calibrated.
            classes: (S,), or (N, h, w).
            ignore_label: label of the pixels that are left out.

        Returns:
            A scalar; zero, with a zero gradient, if there is no sample.
        """
        return cross_entropy(
            logits,
            classes,
            class_weight=self.class_weights,
            ignore_label=ignore_label,
            weighted_mean=self.weighted_mean,
        )

    def alignment_normalizer(self, classes: Tensor, ignore_label: int = NO_LABEL) -> Tensor:
        """The divisor of :meth:`alignment_loss`: with it the parts of a batch add up."""
        weights = self.class_weights if self.weighted_mean else None
        return total_weight(classes, weights, ignore_label)

    def log_calibration(self, classes: Tensor) -> None:
        """:func:`.calibration.log_calibration`, with the background as one more group.

        Args:
            classes: ground truth classes of the samples that have just been calibrated, in the
                same order.
        """
        confidence = self.calibration.last_confidence
        if self.recorded is not None:
            self.recorded.append((confidence, classes))
        groups, K = self.class_groups, len(self.calibration.alpha)
        if len(self.class_weights) > K:
            groups = {**groups, "background": [K]}
        log_calibration(self.calibration, confidence, classes, groups)


def histograms(model: nn.Module) -> dict[str, Tensor]:
    """What is logged as histograms: alpha and beta over classes, sigma over the last samples.

    Args:
        model: any; one without a calibration has none.
    """
    found: dict[str, Tensor] = {}
    parts = [module for module in model.modules() if isinstance(module, Calibrated)]
    for number, part in enumerate(parts):
        prefix = f"disalign/{number}/" if len(parts) > 1 else "disalign/"
        found[f"{prefix}alpha"] = part.calibration.alpha
        found[f"{prefix}beta"] = part.calibration.beta
        if part.calibration.last_confidence is not None:
            found[f"{prefix}sigma"] = part.calibration.last_confidence
    return found
