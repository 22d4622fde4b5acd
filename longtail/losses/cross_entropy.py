"""Pixel losses as pure functions: the paper's baseline and its rivals of Tables 1 and 6.

What they share with other losses of class scores is here, too: means over all processes, and class
weights.

Shape alphabet:
    N: images of the batch
    K: classes
    H, W: height and width of logits and labels

With several processes every mean is taken over the whole batch: the average of the processes'
losses, and of their gradients, is what one process with all images would compute.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def mean_over_processes(count: Tensor) -> Tensor:
    """The average of a count over all processes, for use as a loss's denominator.

    Args:
        count: a scalar >= 0, such as this process's number of valid pixels.

    Returns:
        A scalar that is the same everywhere; 1 where all counts are zero, so that 0 / it is 0.
    """
    count = count.detach().clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count /= dist.get_world_size()
    return torch.where(count > 0, count, torch.ones_like(count))


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor, the same shape in all processes, over these; without a gradient."""
    values = values.detach().clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weight: Tensor | None = None,
    class_prior: Tensor | None = None,
    ignore_label: int = 255,
) -> Tensor:
    """Softmax cross-entropy over the valid pixels, optionally re-weighted or balanced.

    Samples without a place are taken as well: logits (N, K) and labels (N,).

        L = sum_i w(y_i) l_i / sum_i w(y_i)
        l_i = -log( F(y_i) exp(z_iy) / sum_k F(k) exp(z_ik) )

    with w = 1 without ``class_weight`` and F = 1 without ``class_prior``.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W) integers, 0..K-1 or ``ignore_label``.
        class_weight: (K,) weights w >= 0.
        class_prior: (K,) frequencies F >= 0 on any scale; a class with F = 0 leaves the
            denominator and must not occur in ``labels``.
        ignore_label: label of the pixels that are left out.

    Returns:
        A scalar; zero, with a zero gradient, if no pixel is valid.
    """
    logits, labels = logits.float(), labels.long()
    if class_prior is not None:
        log_prior = class_prior.to(logits).log()
        logits = logits + log_prior.view(-1, *[1] * (logits.ndim - 2))
    weight = None if class_weight is None else class_weight.to(logits)
    total = F.cross_entropy(
        logits, labels, weight=weight, ignore_index=ignore_label, reduction="sum"
    )
    return total / mean_over_processes(total_weight(labels, weight, ignore_label))


def total_weight(labels: Tensor, class_weight: Tensor | None, ignore_label: int = 255) -> Tensor:
    """The denominator of :func:`pixel_cross_entropy`.

    Args:
        labels: (N, H, W) integers, 0..K-1 or ``ignore_label``.
        class_weight: (K,) weights w >= 0, or None for 1.
        ignore_label: label of the pixels that are left out.

    Returns:
        sum_i w(y_i) over the valid pixels, a scalar on the labels' device.
    """
    valid = labels != ignore_label
    if class_weight is None:
        return valid.sum().float()
    return class_weight.to(labels.device)[labels[valid].long()].sum()


def dice_loss(logits: Tensor, labels: Tensor, *, ignore_label: int = 255) -> Tensor:
    """Soft Dice loss of V-Net, averaged over images and classes.

        L = 1 - 1/(N K) sum_n,k (2 sum_i p_ik g_ik + 1) / (sum_i p_ik^2 + sum_i g_ik^2 + 1)

    where i runs over the valid pixels of image n, p is the softmax and g the one-hot label; the 1
    keeps a class that is neither shown nor predicted at zero loss.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W) integers, 0..K-1 or ``ignore_label``.
        ignore_label: label of the pixels that are left out.

    Returns:
        A scalar in [0, 1].
    """
    labels = labels.long()
    valid = (labels != ignore_label)[:, None]
    probability = logits.float().softmax(dim=1) * valid
    index = torch.where(valid[:, 0], labels, 0)[:, None]
    overlap = torch.zeros_like(probability).scatter_(1, index, probability.gather(1, index))
    N, K = logits.shape[:2]
    # g is 0 or 1, so its squares sum to the class's pixels.
    area = torch.zeros(N, K, device=logits.device)
    area.scatter_add_(1, index.flatten(1), valid.flatten(1).float())
    dice = (2 * overlap.sum(dim=(2, 3)) + 1) / (probability.square().sum(dim=(2, 3)) + area + 1)
    return 1 - dice.mean()


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
    occurs = class_counts > 0
    if not occurs.any():
        raise ValueError("class_counts must have a positive count, got zeros alone")
    return torch.where(occurs, values / values[occurs].mean(), 0).float()


def inverse_frequency_weights(class_counts: Tensor, exponent: float = 1.0) -> Tensor:
    """Re-weighting by inverse frequency: w_c proportional to (1 / n_c)^exponent, with mean 1.

    Args:
        class_counts: (K,) counts n >= 0; a class with n = 0 gets weight 0, it never occurs.
        exponent: >= 0; 0 weighs all classes alike.

    Returns:
        (K,) weights, float32; the mean is over the classes that occur.

    Raises:
        ValueError: no class occurs.
    """
    # A class that does not occur is left out in the end; 1 is any finite value.
    values = class_counts.double().where(class_counts > 0, 1.0).pow(-exponent)
    return scale_to_mean_one(values, class_counts)


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """Re-weighting by the effective number of samples (Cui et al. 2019), with mean 1:

        w_c proportional to (1 - beta) / (1 - beta^n_c)

    beta = 0 weighs all classes alike, beta -> 1 by 1 / n. Between them, classes of far more than
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
