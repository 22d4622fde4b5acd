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
    skip_absent: bool = False,
) -> Tensor:
    """Logit adjustment: logits z_j - lambda log r_j, the margin of Table 2.

    Args:
        bias: (K,).
        class_counts: (K,) counts > 0 of the training set; r_j is their share, sum_j r_j = 1.
        strength: lambda, finite and >= 0; 0 leaves everything, 1 divides a softmax by the prior.
        class_names: K names, for messages.
        centered: take the mean over the classes from the margins. Alone it changes no softmax; but
            beside a background, whose logit stays, it keeps the classes from rising altogether.
        skip_absent: leave the bias of a class without samples, instead of refusing it.

    Returns:
        (K,) bias.

    Raises:
        ValueError: lambda is out of range, counts of another length, or a class without samples.
    """
    _check_strength("LAMBDA", strength)
    counts = _checked_counts("logit_adjustment", class_counts, bias, class_names, skip_absent)
    occurs = counts > 0
    margins = -strength * (counts / counts.sum()).log()
    if centered:
        margins = margins - margins[occurs].mean()
    return (bias.double() + margins.where(occurs, 0)).to(bias.dtype)


def normalized_calibration(
    bias: Tensor,
    image_counts: Tensor,
    gamma: float,
    *,
    class_names: Sequence[str] | None = None,
    skip_absent: bool = False,
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
        skip_absent: leave the bias of a class without images, instead of refusing it.

    Returns:
        (K,) bias.

    Raises:
        ValueError: gamma is out of range, counts of another length, or a class without images.
    """
    _check_strength("GAMMA", gamma)
    counts = _checked_counts("norcal", image_counts, bias, class_names, skip_absent)
    return (bias.double() - gamma * counts.clamp(min=1).log()).to(bias.dtype)


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


def _check_strength(key: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"MODEL.POST_HOC.{key} must be finite and >= 0, got {value}")


def _checked_counts(
    method: str,
    counts: Tensor,
    bias: Tensor,
    class_names: Sequence[str] | None,
    skip_absent: bool,
) -> Tensor:
    """Counts of the classes as (K,) float64 beside the bias."""
    counts = torch.as_tensor(counts, dtype=torch.float64, device=bias.device)
    if counts.shape != bias.shape:
        raise ValueError(
            f"{method}: the classifier has {len(bias)} classes, the training set "
            f"{len(counts)}: name the training set of these weights in DATASETS.TRAIN"
        )
    check_occurring(method, counts, class_names, skip_absent=skip_absent)
    return counts


def check_occurring(
    method: str,
    counts: Tensor,
    class_names: Sequence[str] | None = None,
    *,
    skip_absent: bool = False,
) -> None:
    """Refuse a training set that lacks a class, or all of them.

    Args:
        method: of MODEL.POST_HOC.METHOD, for the message.
        counts: (K,) samples of the classes.
        class_names: K names, for the message.
        skip_absent: refuse only that all of them are absent.

    Raises:
        ValueError: it does.
    """
    if skip_absent and counts.any():
        return
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent:
        name = "" if class_names is None else f" ({class_names[absent[0]]})"
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(
            f"{method}: class {absent[0]}{name}{more} does not occur in DATASETS.TRAIN, so that "
            "nothing is known of it: name a training set that has it, or set "
            "MODEL.POST_HOC.SKIP_ABSENT True to leave such classes out"
        )
