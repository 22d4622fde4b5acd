"""The second stage of image classification: a frozen classifier whose scores are calibrated.

Shape alphabet:
    N: images of the batch
    C: channels of the classifier's input feature
    K: classes
"""

from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from longtail.data.statistics.groups import shot_groups
from longtail.modeling.classification import SecondStageImageClassifier

from .calibration import AdaptiveCalibration, log_calibration
from .reference import (
    calibration_options,
    checked_class_weights,
    class_weights,
    mean_alignment_loss,
    mean_normalizer,
)


@META_ARCH_REGISTRY.register()
class DisAlignImageClassifier(SecondStageImageClassifier):
    """An image classifier whose scores are calibrated (Eq. 5), for the second stage.

    It takes the config of the first stage. At the start its scores are exactly that one's.
    """

    trained_module_names = ("calibration",)
    # Decay would pull alpha to 0, away from the identity.
    no_decay_params = ("alpha", "beta")

    @configurable
    def __init__(
        self,
        *,
        class_weights: Tensor,
        class_groups: Mapping[str, Sequence[int]],
        weighted_mean: bool = True,
        magnitude: bool = True,
        margin: bool = True,
        confidence: bool = True,
        confidence_bias: bool = True,
        **kwargs,
    ) -> None:
        """
        Args:
            class_weights: (K,) w_c of Eq. 11.
            class_groups: class indices by frequency group, for the log.
            weighted_mean: see :func:`alignment_loss`.
            magnitude, margin, confidence, confidence_bias: see :class:`AdaptiveCalibration`.
            kwargs: as for ImageClassifier.

        Raises:
            ValueError: the first stage's probabilities are no softmax of its logits, or weights
                of another length than the number of classes.
        """
        super().__init__(**kwargs)
        if not self.class_loss.is_softmax:
            raise ValueError(
                "DisAlign aligns a softmax, and a classifier trained with "
                f"{type(self.class_loss).__name__} gives none: train the first stage with a "
                "MODEL.CLASSIFIER.LOSS of a softmax, such as cross_entropy"
            )
        num_classes = self.class_loss.num_logits
        weights = checked_class_weights(class_weights, num_classes, "MODEL.CLASSIFIER.NUM_CLASSES")
        # They belong to the data, not to the weights: they stay out of checkpoints.
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_groups = {name: list(classes) for name, classes in class_groups.items()}
        self.weighted_mean = weighted_mean
        self.calibration = AdaptiveCalibration(
            num_classes,
            self.classifier.in_features,
            magnitude=magnitude,
            margin=margin,
            confidence=confidence,
            confidence_bias=confidence_bias,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        weights, stats = class_weights(cfg, "image_count", cfg.MODEL.CLASSIFIER.NUM_CLASSES)
        return {
            **super().from_config(cfg),
            **calibration_options(cfg),
            "class_weights": weights,
            "class_groups": shot_groups(stats.image_count) if stats else {},
        }

    def class_logits(self, features: Tensor) -> Tensor:
        """(N, C) features to (N, K) calibrated logits."""
        return self.calibration(super().class_logits(features), features)

    def loss(self, features: Tensor, classes: Tensor) -> Tensor:
        """The alignment loss (Eq. 9 and 10): (N, C) features and (N,) classes to a scalar."""
        confidence = self.calibration.confidence(features)
        log_calibration(self.calibration, confidence, classes, self.class_groups)
        return mean_alignment_loss(
            self.class_logits(features), classes, self.class_weights, self.weighted_mean
        )

    def normalizer(self, classes: Tensor) -> Tensor:
        return mean_normalizer(classes, self.class_weights, self.weighted_mean)
