# SPDX-License-Identifier: Apache-2.0
"""The nearest class mean: its classifier, and the sums over training features that it is made of.

Shape alphabet:
    N: samples: images, pixels or boxes
    C: channels of the classifier's input feature
    K: classes
    H, W: height and width of the pixel features
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.modeling.post_hoc import check_occurring

# Samples that are float64 at a time: all pixels of an image would take gigabytes.
SAMPLES_AT_A_TIME = 2**14
# The logit of a class without samples less that of another one, which float32 tells apart up to
# logits of 1e10. Not -inf: between pixels it is multiplied by 0; and half precision has it.
NEVER = -1e4


class NearestClassMean(nn.Module):
    r"""The classifier that names the nearest class mean (NCM, Kang et al. 2020).

    With f(x) = x, or x scaled to length 1, or x - m scaled to length 1, m the mean of all training
    features, and c_j the mean of f over class j, the logits are

    .. math::

        z_j = -\|f(x) - c_j\|^2 \quad \text{or} \quad z_j = \frac{f(x) \cdot c_j}{\|c_j\|}

    the latter a cosine times the length of f(x), which ranks classes as the cosine does.

    Attributes:
        mean: (C,) m, or 0 where nothing is subtracted.
        means: (K, C) c_j; of a class that does not occur, that of one that does.
        shift: (K,) 0, or what keeps a class that does not occur from being named: its logit stays
            below that of the class whose mean it has, however far a feature is from all means.
    """

    def __init__(
        self,
        mean: Tensor,
        means: Tensor,
        features: str,
        distance: str,
        *,
        occurs: Tensor | None = None,
    ) -> None:
        """Compare with given means.

        Args:
            mean: (C,) m.
            means: (K, C) c_j; of a class that does not occur, anything.
            features: ``"centered"``, ``"normalized"`` or ``"plain"``.
            distance: ``"euclidean"`` or ``"cosine"``.
            occurs: (K,) whether a class has a mean, as at least one has; by default all have.
        """
        super().__init__()
        shift = means.new_zeros(len(means))
        if occurs is not None:
            shift = shift.masked_fill(~occurs, NEVER)
            means = means.where(occurs[:, None], means[occurs][0])
        self.register_buffer("mean", mean)
        self.register_buffer("means", means)
        self.register_buffer("shift", shift)
        self.features, self.distance = features, distance

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) features to (N, K) logits, or (N, C, H, W) to (N, K, H, W)."""
        # Not -1: torch writes a permutation's into ONNX files as it is, and onnxruntime does not
        # read it. Other operations may count from the end.
        last = x.dim() - 1
        f = transformed(x.movedim(1, last), self.mean, self.features)
        if self.distance == "cosine":
            z = f @ F.normalize(self.means, dim=1).T
        else:
            # Not the square of a difference, which would be (N, K, C).
            squares = f.square().sum(last, keepdim=True) + self.means.square().sum(1)
            z = 2 * f @ self.means.T - squares
        return (z + self.shift).movedim(last, 1)

    def linear(self) -> tuple[Tensor, Tensor] | None:
        """(K, C) weight and (K,) bias of the linear layer that ranks all classes alike, if any.

        A normalized feature is not linear in x; but the cosine does not depend on its length.
        """
        if self.distance == "cosine":
            weight = F.normalize(self.means, dim=1)
            return weight, self.shift - weight @ self.mean
        if self.features == "plain":
            return 2 * self.means, self.shift - self.means.square().sum(1)
        return None


class ForegroundNearestMean(nn.Module):
    r"""NCM among the foreground classes of a detector, whose authors have no background.

    The background keeps its probability, and the classes share the rest as they do in NCM: with the
    trained scores z and the logits n of the nearest means

    .. math::

        \hat z{}_j = \log \sum_k \exp z_k + \log \mathrm{softmax}(n)_j
    """

    def __init__(self, classifier: nn.Module, nearest: NearestClassMean) -> None:
        """Put the nearest means beside a trained classifier.

        Args:
            classifier: (R, C) features to (R, K + 1) scores, the background's last.
            nearest: (R, C) to (R, K).
        """
        super().__init__()
        self.trained, self.nearest = classifier, nearest

    def forward(self, x: Tensor) -> Tensor:
        """(R, C) features to (R, K + 1) scores."""
        scores = self.trained(x)
        foreground = scores[:, :-1].logsumexp(1, keepdim=True) + self.nearest(x).log_softmax(1)
        return torch.cat([foreground, scores[:, -1:].to(foreground)], dim=1)


def transformed(x: Tensor, mean: Tensor, features: str) -> Tensor:
    """f(x) of :class:`NearestClassMean`: (..., C) features to (..., C); a zero stays one."""
    if features == "plain":
        return x
    return F.normalize(x - mean if features == "centered" else x, dim=-1)


class ClassSums(NamedTuple):
    """Sums over the samples of a layer that means need, in float64: they add up over processes.

    Attributes:
        sums: (K, C), of f(x) over each class.
        counts: (K,), samples of each class.
    """

    sums: Tensor
    counts: Tensor


# The training samples in batches: the (N, C) features of each layer, and the (N,) labels of all.
Samples = Iterable[tuple[Sequence[Tensor], Tensor]]


def class_sums(
    samples: Samples, num_classes: int, means: Sequence[Tensor], features: str
) -> list[ClassSums]:
    """Add f(x) up, class by class, without keeping a feature.

    Args:
        samples: labels are integers in 0..K-1.
        num_classes: K.
        means: (C,) m of each layer, which features are centered by; float64.
        features: f, see :class:`NearestClassMean`.

    Returns:
        The sums of each layer, on the device of its mean.

    Raises:
        ValueError: a label is not a class.
    """
    found = [
        ClassSums(mean.new_zeros(num_classes, len(mean)), mean.new_zeros(num_classes))
        for mean in means
    ]
    for of_layers, labels in samples:
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f"ncm: the labels are {int(labels.min())} to {int(labels.max())}, expected 0 to "
                f"{num_classes - 1}: name the training set of these weights in DATASETS.TRAIN"
            )
        for x, mean, (sums, counts) in zip(of_layers, means, found, strict=True):
            labels = labels.to(mean.device)
            counts += torch.bincount(labels, minlength=num_classes)
            parts = (tensor.split(SAMPLES_AT_A_TIME) for tensor in (x, labels))
            for part, classes in zip(*parts, strict=True):
                f = transformed(part.to(mean), mean, features)
                sums.index_add_(0, classes, f)
    return found


def nearest_class_means(
    read: Callable[[], Samples],
    num_classes: int,
    channels: Sequence[int],
    *,
    transform: str = "centered",
    distance: str = "euclidean",
    class_names: Sequence[str] | None = None,
    skip_absent: bool = False,
    add_up: Callable[[ClassSums], ClassSums] = lambda sums: sums,
    device: torch.device | str = "cpu",
) -> list[NearestClassMean]:
    """The nearest-mean classifiers of the training features of some layers.

    Centered features need two passes over the samples, one for m; others one.

    Args:
        read: gives the samples, anew in each pass.
        num_classes: K.
        channels: C of each layer.
        transform: f, ``"centered"``, ``"normalized"`` or ``"plain"``.
        distance: ``"euclidean"`` or ``"cosine"``.
        class_names: K names, for messages.
        skip_absent: never name a class without a sample, instead of refusing it.
        add_up: gives the sums of all processes for those of this one.
        device: where the sums are.

    Returns:
        The classifiers, float64.

    Raises:
        ValueError: a label is not a class, or a class does not have a sample.
    """
    means = [torch.zeros(C, dtype=torch.float64, device=device) for C in channels]
    # Each layer has the same samples: the counts are those of the first one.
    for features in ("plain", "centered") if transform == "centered" else (transform,):
        found = [add_up(sums) for sums in class_sums(read(), num_classes, means, features)]
        counts = found[0].counts
        check_occurring("ncm", counts, class_names, skip_absent=skip_absent)
        if features != transform:
            means = [sums.sum(0) / counts.sum() for sums, _ in found]
    occurs, divisors = counts > 0, counts.clamp(min=1)[:, None]
    return [
        NearestClassMean(mean, sums / divisors, transform, distance, occurs=occurs)
        for mean, (sums, _) in zip(means, found, strict=True)
    ]


def nearest_class_mean(
    features: Tensor, labels: Tensor, num_classes: int, **options: object
) -> NearestClassMean:
    """:func:`nearest_class_means` of features that are all in memory.

    Args:
        features: (N, C).
        labels: (N,) integers, 0..K-1.
        num_classes: K.
        options: as there.

    Returns:
        The classifier, of the features' type.

    Raises:
        ValueError: as there.
    """
    samples, channels = [([features], labels)], [features.shape[1]]
    [nearest] = nearest_class_means(
        lambda: samples, num_classes, channels, device=features.device, **options
    )
    return nearest.to(features.dtype)
