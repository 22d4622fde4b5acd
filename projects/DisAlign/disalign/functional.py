# SPDX-License-Identifier: Apache-2.0
"""Generalized re-weighting, calibration and the alignment loss of DisAlign, as pure functions.

Shape alphabet:
    K: classes (foreground classes in detection)
    S: samples: RoIs, pixels or images
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from longtail.losses.class_weights import inverse_frequency_weights
from longtail.losses.cross_entropy import cross_entropy


def generalized_reweight(
    class_counts: Tensor,
    rho: float,
    *,
    class_names: Sequence[str] | None = None,
    clamp_zero_counts: bool = False,
) -> Tensor:
    r"""The class weights of the reference distribution, Eq. 11, scaled to mean 1.

    .. math::

        w_c = \frac{K (1 / r_c)^\rho}{\sum_k (1 / r_k)^\rho}

    rho = 0 weighs all samples alike, rho = 1 all classes. The scale of ``class_counts`` cancels. It
    is :func:`longtail.losses.class_weights.inverse_frequency_weights` of classes that all occur.

    Args:
        class_counts: (K,) finite r_c >= 0, what the class occurs in: images (classification),
            pixels (semantic segmentation) or instances (detection).
        rho: exponent, finite and >= 0.
        class_names: K names, for messages.
        clamp_zero_counts: count a class that does not occur as 1 instead of refusing it.

    Returns:
        (K,) float64 weights > 0 with mean 1.

    Raises:
        ValueError: wrong shape, a count that is negative or not finite, a zero count that is not
            to be clamped, or rho out of range.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if counts.ndim != 1 or len(counts) == 0:
        raise ValueError(f"class_counts must have shape (K,), got {tuple(counts.shape)}")
    if not 0 <= rho < float("inf"):
        raise ValueError(f"rho must be finite and >= 0, got {rho}")
    # Not "counts < 0": that would let NaN pass.
    valid = (counts >= 0) & counts.isfinite()
    if not valid.all():
        raise ValueError(f"class_counts must be finite and >= 0, got {counts[~valid][0].item():g}")
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent and not clamp_zero_counts:
        first = f"class {absent[0]}"
        if class_names is not None:
            first += f" ({class_names[absent[0]]})"
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(
            f"{first}{more} does not occur in the training set, so that its weight would be "
            "infinite: train on data that has it, or count it as one sample "
            "(MODEL.DISALIGN.CLAMP_ZERO_COUNTS True)"
        )
    return inverse_frequency_weights(counts.where(counts > 0, 1.0), rho, dtype=torch.float64)


# The equations of the paper that calibrate_logits knows; they differ.
FORMS = ("eq5", "eq6")


def calibrate_logits(
    logits: Tensor, alpha: Tensor, beta: Tensor, confidence: Tensor | float, form: str = "eq5"
) -> Tensor:
    r"""The calibrated class scores, Eq. 5 or Eq. 6, which differ as printed.

    .. math::

        \hat z{}_j = \sigma(x) (\alpha_j z_j + \beta_j) + (1 - \sigma(x)) z_j \quad (5)

        \hat z{}_j = (1 + \sigma(x) \alpha_j) z_j + \sigma(x) \beta_j \quad (6)

    Eq. 5 is computed as z + sigma ((alpha - 1) z + beta), which for alpha = 1 and beta = 0 is
    exactly z; the printed form would round. So is Eq. 6, as z + sigma (alpha z + beta), for
    alpha = 0 and beta = 0: it is Eq. 5 with alpha + 1.

    Args:
        logits: (..., K) class scores z.
        alpha: (K,) magnitude.
        beta: (K,) margin.
        confidence: (..., 1) sigma in [0, 1], or a number: how much of the calibration applies.
        form: ``"eq5"`` or ``"eq6"``.

    Returns:
        (..., K), of the wider of the types given.

    Raises:
        ValueError: shapes that do not belong together, or no such equation.
    """
    K = logits.shape[-1]
    if alpha.shape != (K,) or beta.shape != (K,):
        raise ValueError(
            f"alpha and beta must have shape ({K},), one value for each logit, got "
            f"{tuple(alpha.shape)} and {tuple(beta.shape)}"
        )
    if isinstance(confidence, Tensor) and confidence.shape != (*logits.shape[:-1], 1):
        raise ValueError(
            f"confidence must have shape {(*logits.shape[:-1], 1)} for logits of shape "
            f"{tuple(logits.shape)}, got {tuple(confidence.shape)}"
        )
    gain = alpha - identity_magnitude(form)
    return logits + confidence * (gain * logits + beta)


def identity_magnitude(form: str) -> float:
    """The alpha that, with beta = 0, leaves the scores as they are: 1 in Eq. 5, 0 in Eq. 6.

    Args:
        form: ``"eq5"`` or ``"eq6"``.

    Raises:
        ValueError: no such equation.
    """
    if form not in FORMS:
        raise ValueError(f"MODEL.DISALIGN.FORM must be one of {', '.join(FORMS)}, got {form!r}")
    return 1.0 if form == "eq5" else 0.0


def alignment_loss(
    logits: Tensor, classes: Tensor, class_weights: Tensor, *, weighted_mean: bool = True
) -> Tensor:
    r"""The KL divergence from the reference distribution, Eq. 9 and 10, up to its constant.

    .. math::

        L = -\frac{\sum_i w_{y_i} \log p_m(y_i \mid x_i)}{\sum_i w_{y_i}}

    that is :func:`longtail.losses.cross_entropy.cross_entropy` with the weights w.

    Args:
        logits: (S, K) calibrated scores; computed in float32 at least.
        classes: (S,) integers in 0..K-1.
        class_weights: (K,) w_c > 0 of Eq. 11 (with the background's weight in detection).
        weighted_mean: False divides by S, as printed, instead of by the sum of the weights.

    Returns:
        A scalar; zero, with a zero gradient, if S is 0. With several processes, which must all call
        this, the average of what they get is the loss of the samples of all of them.

    Raises:
        ValueError: wrong shapes.
    """
    if logits.ndim != 2 or class_weights.shape != logits.shape[1:]:
        raise ValueError(
            f"logits must have shape (S, K) and class_weights (K,), got {tuple(logits.shape)} "
            f"and {tuple(class_weights.shape)}"
        )
    # cross_entropy would take (S, K) for soft labels.
    if classes.shape != logits.shape[:1]:
        raise ValueError(f"classes must have shape ({len(logits)},), got {tuple(classes.shape)}")
    return cross_entropy(logits, classes, class_weight=class_weights, weighted_mean=weighted_mean)
