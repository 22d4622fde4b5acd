# SPDX-License-Identifier: Apache-2.0
"""Changes of a trained linear classifier without training, as pure functions.

Shape alphabet:
    N: samples
    C: channels of the classifier's input feature
    K: classes
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tau_norm(
    weight: Tensor, bias: Tensor, tau: float, *, keep_bias: bool = False
) -> tuple[Tensor, Tensor]:
    r"""tau-normalization (Kang et al. 2020): weights divided by a power of their length.

    .. math::

        \hat w{}_j = \frac{w_j}{\|w_j\|^\tau}, \quad \hat z{}_j = \hat w{}_j \cdot x

    Args:
        weight: (K, C, ...) rows w_j, such as of a linear layer or a 1x1 convolution.
        bias: (K,).
        tau: finite and >= 0; 0 leaves the weights, 1 gives rows of length 1.
        keep_bias: divide the bias like the rows, so that z_j = w_j.x + b_j is, the magnitude of
            DisAlign's Table 2; by default it is dropped, as by the authors.

    Returns:
        Weight and bias, which is 0 unless it is kept.

    Raises:
        ValueError: tau is out of range, or a row is zero.
    """
    _check_strength("TAU", tau)
    lengths = weight.flatten(1).norm(dim=1)
    if tau and not (lengths > 0).all():
        raise ValueError(
            f"tau_norm: class {int(lengths.argmin())} has the weight 0, which no factor normalizes"
        )
    factors = lengths.pow(-tau)
    scaled = weight * factors.view(-1, *[1] * (weight.ndim - 1))
    return scaled, bias * factors if keep_bias else torch.zeros_like(bias)


def logit_adjustment(
    bias: Tensor,
    class_counts: Tensor,
    strength: float,
    *,
    class_names: Sequence[str] | None = None,
    centered: bool = False,
) -> Tensor:
    """Logit adjustment: logits z_j - lambda log r_j, the margin of Table 2.

    Args:
        bias: (K,).
        class_counts: (K,) counts > 0 of the training set; r_j is their share, sum_j r_j = 1.
        strength: lambda, finite and >= 0; 0 leaves everything, 1 divides a softmax by the prior.
        class_names: K names, for messages.
        centered: take the mean over the classes from the margins. Alone it changes no softmax; but
            beside a background, whose logit stays, it keeps the classes from rising altogether.

    Returns:
        (K,) bias.

    Raises:
        ValueError: lambda is out of range, counts of another length, or a class without samples.
    """
    _check_strength("LAMBDA", strength)
    counts = _checked_counts("logit_adjustment", class_counts, bias, class_names)
    margins = -strength * (counts / counts.sum()).log()
    if centered:
        margins = margins - margins.mean()
    return (bias.double() + margins).to(bias.dtype)


def normalized_calibration(
    bias: Tensor,
    image_counts: Tensor,
    gamma: float,
    *,
    class_names: Sequence[str] | None = None,
) -> Tensor:
    r"""NorCal (Pan et al., NeurIPS 2021, arXiv 2107.02170): scores divided by N_j^gamma.

    .. math::

        \hat s{}_j = \frac{s_j / N_j^\gamma}{\sum_k s_k / N_k^\gamma + s_{\text{background}}}

    With s a softmax this is the softmax of z_j - gamma log N_j beside the background's own z: the
    shift that this function gives. It is logit adjustment but for its reference, N_j = 1 in place
    of the mean of log N_j, so that all objects fall against the background.

    Args:
        bias: (K,) of the foreground classes.
        image_counts: (K,) counts > 0 of training images, N_j, as in the release.
        gamma: finite and >= 0; 0 leaves everything.
        class_names: K names, for messages.

    Returns:
        (K,) bias.

    Raises:
        ValueError: gamma is out of range, counts of another length, or a class without images.
    """
    _check_strength("GAMMA", gamma)
    counts = _checked_counts("norcal", image_counts, bias, class_names)
    return (bias.double() - gamma * counts.log()).to(bias.dtype)


def logit_normalization(
    weight: Tensor, bias: Tensor, mean: Tensor, deviation: Tensor
) -> tuple[Tensor, Tensor]:
    r"""LogN (Zhao et al., IJCV 2024, arXiv 2203.17020): logits of all classes on one scale.

    .. math::

        \hat z{}_j = \frac{z_j - \mu_j + \min_k \mu_k}{\sigma_j}

    The background's logit stays; that the smallest mean is added keeps objects below it. The terms
    are those of the release.

    Args:
        weight: (K, C) rows w_j of the foreground classes, z_j = w_j.x + b_j.
        bias: (K,).
        mean: (K,) mu_j, of z_j over RoIs of training images.
        deviation: (K,) sigma_j > 0, likewise.

    Returns:
        Weight and bias.

    Raises:
        ValueError: a deviation is not positive and finite: the logit of a class never changes.
    """
    mean, deviation = mean.double().to(bias.device), deviation.double().to(bias.device)
    if not bool(((deviation > 0) & deviation.isfinite()).all()):
        index = int((~((deviation > 0) & deviation.isfinite())).nonzero()[0])
        raise ValueError(
            f"logn: the logits of class {index} have the deviation {float(deviation[index])}, "
            "expected a positive one: its weights are untrained, or the training set has no RoIs"
        )
    factor = 1 / deviation
    shifted = (bias.double() - mean + mean.min()) * factor
    return (weight * factor.to(weight).unsqueeze(1), shifted.to(bias.dtype))


class NearestClassMean(nn.Module):
    r"""The classifier that names the nearest class mean (NCM, Kang et al. 2020).

    With f(x) = x, or x scaled to length 1, or x - m scaled to length 1, m the mean of all training
    features, and c_j the mean of f over class j, the logits are

    .. math::

        z_j = -\|f(x) - c_j\|^2 \quad \text{or} \quad z_j = \frac{f(x) \cdot c_j}{\|c_j\|}

    the latter a cosine times the length of f(x), which ranks classes as the cosine does.

    Attributes:
        mean: (C,) m, or 0 where nothing is subtracted.
        means: (K, C) c_j.
    """

    def __init__(self, mean: Tensor, means: Tensor, features: str, distance: str) -> None:
        """Compare with given means.

        Args:
            mean: (C,) m.
            means: (K, C) c_j.
            features: ``"centered"``, ``"normalized"`` or ``"plain"``.
            distance: ``"euclidean"`` or ``"cosine"``.
        """
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("means", means)
        self.features, self.distance = features, distance

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) features to (N, K) logits."""
        f = transformed(x, self.mean, self.features)
        if self.distance == "cosine":
            return f @ F.normalize(self.means, dim=1).T
        # Not the square of a difference, which would be (N, K, C).
        squares = f.square().sum(1, keepdim=True) + self.means.square().sum(1)
        return 2 * f @ self.means.T - squares

    def linear(self) -> tuple[Tensor, Tensor] | None:
        """(K, C) weight and (K,) bias of the linear layer that ranks all classes alike, if any.

        A normalized feature is not linear in x; but the cosine does not depend on its length.
        """
        if self.distance == "cosine":
            weight = F.normalize(self.means, dim=1)
            return weight, -weight @ self.mean
        if self.features == "plain":
            return 2 * self.means, -self.means.square().sum(1)
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
    """f(x) of :class:`NearestClassMean`: (N, C) features to (N, C); a zero stays one."""
    if features == "plain":
        return x
    return F.normalize(x - mean if features == "centered" else x, dim=1)


def nearest_class_mean(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    transform: str = "centered",
    distance: str = "euclidean",
    class_names: Sequence[str] | None = None,
) -> NearestClassMean:
    """The nearest-mean classifier of training features.

    Args:
        features: (N, C).
        labels: (N,) integers, 0..K-1.
        num_classes: K.
        transform: f, ``"centered"``, ``"normalized"`` or ``"plain"``.
        distance: ``"euclidean"`` or ``"cosine"``.
        class_names: K names, for messages.

    Returns:
        The classifier, with means of the features' type, computed in float64.

    Raises:
        ValueError: a label is not a class, or a class does not have a sample.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"ncm: the labels are {int(labels.min())} to {int(labels.max())}, expected 0 to "
            f"{num_classes - 1}: name the training set of these weights in DATASETS.TRAIN"
        )
    counts = torch.bincount(labels, minlength=num_classes)
    _check_all_occur("ncm", counts, class_names)
    x = features.double()
    mean = x.mean(0) if transform == "centered" else x.new_zeros(x.shape[1])
    sums = x.new_zeros(num_classes, x.shape[1])
    sums.index_add_(0, labels, transformed(x, mean, transform))
    means = sums / counts[:, None]
    return NearestClassMean(mean.to(features.dtype), means.to(features.dtype), transform, distance)


def _check_strength(key: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"MODEL.POST_HOC.{key} must be finite and >= 0, got {value}")


def _checked_counts(
    method: str, counts: Tensor, bias: Tensor, class_names: Sequence[str] | None
) -> Tensor:
    """Counts of the classes as (K,) float64 beside the bias; all must occur."""
    counts = torch.as_tensor(counts, dtype=torch.float64, device=bias.device)
    if counts.shape != bias.shape:
        raise ValueError(
            f"{method}: the classifier has {len(bias)} classes, the training set "
            f"{len(counts)}: name the training set of these weights in DATASETS.TRAIN"
        )
    _check_all_occur(method, counts, class_names)
    return counts


def _check_all_occur(method: str, counts: Tensor, class_names: Sequence[str] | None) -> None:
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent:
        name = "" if class_names is None else f" ({class_names[absent[0]]})"
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(
            f"{method}: class {absent[0]}{name}{more} does not occur in DATASETS.TRAIN, so that "
            "nothing is known of it: name a training set that has it"
        )
