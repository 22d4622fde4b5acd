"""The second stage of image classification: a frozen classifier whose scores are calibrated.

Shape alphabet:
    N: images of the batch
    C: channels of the classifier's input feature
    K: classes
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from longtail.data.class_stats import get_class_stats
from longtail.data.frequency_groups import shot_groups
from longtail.modeling.classification import SecondStageImageClassifier
from longtail.modeling.losses import mean_over_processes

from .calibration import AdaptiveCalibration, log_calibration
from .functional import alignment_loss, generalized_reweight


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
        weights = torch.as_tensor(class_weights, dtype=torch.float32)
        if weights.shape != (num_classes,):
            raise ValueError(
                f"class_weights must have shape ({num_classes},), got {tuple(weights.shape)}: "
                "MODEL.CLASSIFIER.NUM_CLASSES and the training set do not belong together"
            )
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
        options = cfg.MODEL.DISALIGN
        return {
            **super().from_config(cfg),
            **_class_statistics(cfg),
            "weighted_mean": options.WEIGHTED_MEAN,
            "magnitude": options.MAGNITUDE,
            "margin": options.MARGIN,
            "confidence": options.CONFIDENCE,
            "confidence_bias": options.CONFIDENCE_BIAS,
        }

    def class_logits(self, features: Tensor) -> Tensor:
        """(N, C) features to (N, K) calibrated logits."""
        return self.calibration(super().class_logits(features), features)

    def loss(self, features: Tensor, classes: Tensor) -> Tensor:
        """The alignment loss (Eq. 9 and 10): (N, C) features and (N,) classes to a scalar."""
        confidence = self.calibration.confidence(features)
        log_calibration(self.calibration, confidence, classes, self.class_groups)
        loss = alignment_loss(
            self.class_logits(features),
            classes,
            self.class_weights,
            weighted_mean=self.weighted_mean,
        )
        weights = self.class_weights[classes]
        total = (weights if self.weighted_mean else torch.ones_like(weights)).sum()
        # The mean is over the images of all processes: the loss does not depend on their number.
        return loss * (total / mean_over_processes(total))


def _class_statistics(cfg: CfgNode) -> dict:
    """Class weights of Eq. 11 and groups, from the images of the training set."""
    options, names = cfg.MODEL.DISALIGN, cfg.DATASETS.TRAIN
    if not names:
        # Inference needs neither, and should not need the training set.
        num_classes = cfg.MODEL.CLASSIFIER.NUM_CLASSES
        return {"class_weights": torch.ones(num_classes), "class_groups": {}}
    stats = get_class_stats(names)
    weights = generalized_reweight(
        torch.from_numpy(stats.image_count),
        options.RHO,
        class_names=stats.class_names,
        clamp_zero_counts=options.CLAMP_ZERO_COUNTS,
    )
    return {"class_weights": weights, "class_groups": shot_groups(stats.image_count)}
