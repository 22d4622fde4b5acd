# SPDX-License-Identifier: Apache-2.0
"""The interface of a loss of class scores, on any task.

Shape alphabet:
    S: samples: images, valid pixels or RoIs
    K: classes (foreground classes in detection)
    D: outputs of the classifier
    N, H, W: images, height and width of maps of pixels
"""

from torch import Tensor, nn
from torch.nn import functional as F

from longtail.losses.reduction import at_least_float32, mean_over_processes, total_weight


class ClassLoss(nn.Module):
    """A loss of class scores, and the probabilities that they stand for.

    Attributes:
        is_softmax: whether the probabilities are the softmax of one logit for each class (and one
            for the background).
        initial_bias: what the bias of a new linear classifier should start from.
        cosine_scale: the scale of a cosine classifier, if it is not to be learned.
    """

    is_softmax = True
    initial_bias = 0.0
    cosine_scale: float | None = None

    def __init__(self, num_classes: int, *, background: bool = False) -> None:
        """Set the number of classes and whether there is a background.

        Args:
            num_classes: K.
            background: whether samples may be background, with label and last column K.
        """
        super().__init__()
        self.num_classes = num_classes
        self.background = background

    @property
    def num_logits(self) -> int:
        """D, the outputs that the classifier must have."""
        return self.num_classes + self.background

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The loss, computed in float32 at least.

        Args:
            logits: (S, D).
            classes: (S,) integers in 0..K-1, or K for background.

        Returns:
            A scalar whose average over processes is the mean over the samples of all of them;
            zero, with a zero gradient, if there is none.
        """
        raise NotImplementedError

    def of_pixels(self, logits: Tensor, labels: Tensor, ignore_label: int) -> Tensor:
        """The loss of the valid pixels of maps.

        Args:
            logits: (N, D, H, W).
            labels: (N, H, W) integers, 0..K-1 or ``ignore_label``.
            ignore_label: label of the pixels that are left out.
        """
        valid = labels != ignore_label
        # One copy of the logits that count, the only one here.
        return self(logits.permute(0, 2, 3, 1)[valid], labels[valid].long())

    def normalizer(self, classes: Tensor) -> Tensor:
        """The divisor of the loss of (S,) labels: their number, or the sum of their weights.

        With it the losses of parts add up to a batch's, for gradient accumulation.

        Raises:
            ValueError: they do not add up.
        """
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """(S, D) logits to (S, K) probabilities, or (S, K + 1) with the background's."""
        return F.softmax(logits, dim=-1)


class SampleMeanLoss(ClassLoss):
    """The mean, or the weighted mean, of what a subclass says of each sample."""

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits, float32 at least, and (S,) labels to (S,) losses."""
        raise NotImplementedError

    def sample_weights(self) -> Tensor | None:
        """The weight of a sample of each class, (D,); None for 1."""
        return None

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to the weighted mean of the samples' losses, a scalar."""
        losses = self.sample_losses(at_least_float32(logits), classes)
        weights = self.sample_weights()
        if weights is not None:
            losses = losses * weights[classes]
        return losses.sum() / mean_over_processes(self.normalizer(classes))

    def normalizer(self, classes: Tensor) -> Tensor:
        """The samples of (S,) classes, or the sum of their weights."""
        return total_weight(classes, self.sample_weights())


def check_cosine(key: str, class_loss: ClassLoss) -> None:
    """Refuse a loss that a cosine classifier cannot start with.

    Args:
        key: of the config, that asks for a cosine classifier.
        class_loss: the loss.

    Raises:
        ValueError: the loss starts from a bias, which a cosine classifier does not have.
    """
    if class_loss.initial_bias:
        raise ValueError(
            f"{key} cosine has no bias, and {type(class_loss).__name__} has to start from one: "
            "set it to linear, or take a loss of a softmax"
        )
