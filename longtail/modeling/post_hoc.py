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
from torch import Tensor
from torch.nn import functional as F


def tau_norm(weight: Tensor, bias: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    r"""tau-normalization: logits divided by a power of their weights' length, as in Table 2.

    .. math::

        \hat z{}_j = \frac{z_j}{\|w_j\|^\tau}

    Args:
        weight: (K, C, ...) rows w_j, such as of a linear layer or a 1x1 convolution.
        bias: (K,), divided like the rows, since z_j = w_j.x + b_j is.
        tau: finite and >= 0; 0 leaves everything, 1 gives rows of length 1.

    Returns:
        Weight and bias.

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
    return weight * factors.view(-1, *[1] * (weight.ndim - 1)), bias * factors


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
    counts = torch.as_tensor(class_counts, dtype=torch.float64, device=bias.device)
    _check_length("logit_adjustment", counts, bias)
    _check_all_occur("logit_adjustment", counts, class_names)
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
    counts = torch.as_tensor(image_counts, dtype=torch.float64, device=bias.device)
    _check_length("norcal", counts, bias)
    _check_all_occur("norcal", counts, class_names)
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


def nearest_class_mean(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    class_names: Sequence[str] | None = None,
) -> Tensor:
    r"""The weight of the classifier that names the nearest class mean.

    .. math::

        w_j = \frac{\mu_j}{\|\mu_j\|}

    Without bias its largest logit is that of the mean with the largest cosine, and as well that of
    the nearest normalized mean,

    .. math::

        \|x - w_j\|^2 = \|x\|^2 + 1 - 2 \, w_j \cdot x

    Args:
        features: (N, C).
        labels: (N,) integers, 0..K-1.
        num_classes: K.
        class_names: K names, for messages.

    Returns:
        (K, C) weight, of the features' type.

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
    sums = features.new_zeros(num_classes, features.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels, features.double())
    # The length of a sum has no part in its direction.
    return F.normalize(sums, dim=1).to(features.dtype)


def _check_strength(key: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"MODEL.POST_HOC.{key} must be finite and >= 0, got {value}")


def _check_length(method: str, counts: Tensor, bias: Tensor) -> None:
    if counts.shape != bias.shape:
        raise ValueError(
            f"{method}: the classifier has {len(bias)} classes, the training set "
            f"{len(counts)}: name the training set of these weights in DATASETS.TRAIN"
        )


def _check_all_occur(method: str, counts: Tensor, class_names: Sequence[str] | None) -> None:
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent:
        name = "" if class_names is None else f" ({class_names[absent[0]]})"
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(
            f"{method}: class {absent[0]}{name}{more} does not occur in DATASETS.TRAIN, so that "
            "nothing is known of it: name a training set that has it"
        )
