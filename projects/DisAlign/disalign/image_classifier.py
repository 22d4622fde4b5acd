# SPDX-License-Identifier: Apache-2.0
"""The second stage of image classification: a frozen classifier whose scores are calibrated.

Shape alphabet:
    N: images of the batch
    C: channels of the classifier's input feature
    K: classes
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from longtail.data.statistics.groups import shot_groups
from longtail.losses import IMAGES
from longtail.modeling.classification import SecondStageImageClassifier

from .calibrated import NO_DECAY, TRAINED, Calibrated, check_softmax
from .reference import calibration_arguments


@META_ARCH_REGISTRY.register()
class DisAlignImageClassifier(Calibrated, SecondStageImageClassifier):
    """An image classifier whose scores are calibrated (Eq. 5), for the second stage.

    It takes the config of the first stage. At the start its scores are exactly that one's.
    """

    trained_module_names = TRAINED
    no_decay_params = NO_DECAY

    @configurable
    def __init__(
        self,
        *,
        class_weights: Tensor,
        class_groups: Mapping[str, Sequence[int]],
        weighted_mean: bool = True,
        calibration: Mapping[str, Any] | None = None,
        **kwargs: object,
    ) -> None:
        """Add a calibration to an image classifier.

        Args:
            class_weights: (K,) weights w_c of Eq. 11.
            class_groups: classes by the name of their group, for the log.
            weighted_mean: see :meth:`.Calibrated.add_calibration`.
            calibration: see :meth:`.Calibrated.add_calibration`.
            kwargs: as for ImageClassifier.

        Raises:
            ValueError: the first stage's probabilities are not a softmax of its logits, or weights
                of another length than the number of classes.
        """
        super().__init__(**kwargs)
        check_softmax(self.class_loss, IMAGES.loss_key)
        self.add_calibration(
            self.class_loss.num_logits,
            self.classifier.in_features,
            class_weights=class_weights,
            class_groups=class_groups,
            weighted_mean=weighted_mean,
            calibration=calibration,
            classes_key=IMAGES.classes_key,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read the first stage's arguments, and the weights from the training set's images."""
        arguments = calibration_arguments(
            cfg,
            "image_count",
            cfg.MODEL.CLASSIFIER.NUM_CLASSES,
            lambda stats: shot_groups(stats.image_count),
        )
        return {**super().from_config(cfg), **arguments}

    def class_logits(self, features: Tensor) -> Tensor:
        """(N, C) features to (N, K) calibrated logits."""
        return self.calibration(super().class_logits(features), features)

    def loss(self, features: Tensor, classes: Tensor) -> Tensor:
        """The alignment loss (Eq. 9 and 10): (N, C) features and (N,) classes to a scalar."""
        logits = self.class_logits(features)
        self.log_calibration(classes)
        return self.alignment_loss(logits, classes)

    def normalizer(self, classes: Tensor) -> Tensor:
        """The sum of the weights of (N,) classes, or N without ``weighted_mean``."""
        return self.alignment_normalizer(classes)
