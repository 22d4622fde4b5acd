# SPDX-License-Identifier: Apache-2.0
"""Weights of classes from how often they occur, as pure functions.

Shape alphabet:
    K: classes
"""

import torch
from torch import Tensor


def scale_to_mean_one(values: Tensor, class_counts: Tensor) -> Tensor:
    """Values of classes, scaled to mean 1 over the classes that occur.

    Args:
        values: (K,).
        class_counts: (K,) counts n >= 0; a class with n = 0 gets the value 0.

    Returns:
        (K,), float32.

    Raises:
        ValueError: no class occurs.
    """
    occurs = _occurring(class_counts)
    return torch.where(occurs, values / values[occurs].mean(), 0).float()


def inverse_frequency_weights(
    class_counts: Tensor, exponent: float = 1.0, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    r"""Re-weighting by inverse frequency, with mean 1.

    .. math::

        w_c = \frac{K (1 / n_c)^\mathrm{exponent}}{\sum_k (1 / n_k)^\mathrm{exponent}}

    It is the re-weighting in Table 1 of the Region Rebalance paper (exponent 1, n_c pixels), and
    K times Eq. 11 of the DisAlign paper, generalized re-weighting (exponent rho, n_c = r_c). The
    scale of n cancels.

    Args:
        class_counts: (K,) counts n >= 0; a class with n = 0 gets weight 0, it never occurs, and K
            is the number of the others.
        exponent: >= 0; 0 weighs all samples alike, 1 all classes.
        dtype: of the weights; they are computed in float64.

    Returns:
        (K,) weights; their mean over the classes that occur is 1.

    Raises:
        ValueError: no class occurs.
    """
    occurs = _occurring(class_counts)
    # A class that does not occur is left out in the end; 1 is any finite value.
    log_weights = -exponent * class_counts.double().where(occurs, 1.0).log()
    # A softmax is the normalisation that cannot overflow, whatever the exponent.
    shares = log_weights.masked_fill(~occurs, -torch.inf).softmax(dim=0)
    return (occurs.sum() * shares).to(dtype)


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    r"""Re-weighting by the effective number of samples (Cui et al. 2019), with mean 1.

    .. math::

        w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}

    beta = 0 weighs all samples alike, beta -> 1 by 1 / n. Between them, classes of far more than
    1 / (1 - beta) samples are weighed alike: for counts of pixels, beta must be that close to 1.

    Args:
        class_counts: (K,) counts n >= 0; a class with n = 0 gets weight 0, it never occurs.
        beta: in [0, 1).

    Returns:
        (K,) weights, float32; the mean is over the classes that occur.

    Raises:
        ValueError: no class occurs.
    """
    log_beta = torch.tensor(beta, dtype=torch.float64).log()
    # 1 - beta^n without the cancellation of beta near 1.
    effective = -torch.expm1(class_counts.double().clamp(min=1) * log_beta)
    return scale_to_mean_one(1 / effective, class_counts)


def _occurring(class_counts: Tensor) -> Tensor:
    occurs = class_counts > 0
    if not occurs.any():
        raise ValueError("class_counts must have a positive count, got zeros alone")
    return occurs
