# SPDX-License-Identifier: Apache-2.0
"""Label-aware smoothing, as pure functions, as a module, and by its name in configs.

Shape alphabet:
    S: samples: images or valid pixels
    K: classes
"""

from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from longtail.losses import IMAGES, PIXELS, LossTask, SampleMeanLoss, register_loss
from longtail.losses.build import training_counts


def smoothing_factors(class_counts: Tensor, head: float, tail: float) -> Tensor:
    r"""How much each class is smoothed, by the linear rule of the paper.

    .. math::

        \epsilon_c = \epsilon_K + (\epsilon_1 - \epsilon_K) \frac{n_c - n_K}{n_1 - n_K}

    Args:
        class_counts: (K,) counts n >= 0.
        head: epsilon_1, of the most frequent class.
        tail: epsilon_K, of the rarest class, and of all where all are equally frequent.

    Returns:
        (K,), float32.
    """
    counts = class_counts.double()
    least, most = counts.min(), counts.max()
    return (tail + (head - tail) * (counts - least) / (most - least).clamp(min=1)).float()


def smoothed_cross_entropy(logits: Tensor, classes: Tensor, smoothing: Tensor) -> Tensor:
    r"""Cross-entropy with labels :math:`1 - \epsilon_y` and :math:`\epsilon_y / (K - 1)`.

    Args:
        logits: (S, K).
        classes: (S,) integers y in 0..K-1.
        smoothing: (K,) the epsilon of each class.

    Returns:
        (S,) losses.
    """
    log_probabilities = F.log_softmax(logits, dim=1)
    own = log_probabilities.gather(1, classes[:, None])[:, 0]
    others = (log_probabilities.sum(dim=1) - own) / (logits.shape[1] - 1)
    epsilon = smoothing[classes]
    return -((1 - epsilon) * own + epsilon * others)


class LabelAwareSmoothing(SampleMeanLoss):
    """The mean of :func:`smoothed_cross_entropy` over the samples of all processes."""

    def __init__(self, num_classes: int, *, smoothing: Tensor) -> None:
        """Keep the smoothing of each class.

        Args:
            num_classes: K > 1.
            smoothing: (K,).
        """
        super().__init__(num_classes)
        # It belongs to the data, not to the weights: it stays out of checkpoints.
        self.register_buffer("smoothing", smoothing, persistent=False)

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, K) logits and (S,) classes to (S,) losses."""
        return smoothed_cross_entropy(logits, classes, self.smoothing)


@register_loss(IMAGES, PIXELS)
def label_aware_smoothing(cfg: CfgNode, task: LossTask) -> LabelAwareSmoothing:
    """Cross-entropy with labels that are the softer the more frequent their class is."""
    options = cfg.MODEL.LABEL_AWARE_SMOOTHING
    if not 0 <= options.TAIL <= options.HEAD <= 1:
        raise ValueError(
            "MODEL.LABEL_AWARE_SMOOTHING must have 0 <= TAIL <= HEAD <= 1, got "
            f"TAIL {options.TAIL} and HEAD {options.HEAD}"
        )
    counts = training_counts(cfg, task)
    smoothing = smoothing_factors(counts, options.HEAD, options.TAIL)
    return LabelAwareSmoothing(task.num_classes(cfg), smoothing=smoothing)
