# SPDX-License-Identifier: Apache-2.0
"""Region pooling and the balanced softmax loss of Region Rebalance, as pure functions.

Shape alphabet:
    N: images of the batch
    C: channels of the pixel features
    H, W: height and width of the pixel features
    h, w: height and width of the label map
    K: classes
    P: most classes that one image of the batch shows
    R: regions, one per (image, class) pair that occurs
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from longtail.losses.cross_entropy import cross_entropy
from longtail.losses.pixels import nearest_labels

SCOPES = ("image", "batch")
DOWNSAMPLINGS = ("nearest", "area")
# So much of half precision becomes float32 at a time: 4 MB, which stay in a processor's cache.
ELEMENTS_AT_A_TIME = 2**20


def pool_regions(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    ignore_label: int = 255,
    scope: str = "image",
    downsampling: str = "nearest",
) -> tuple[Tensor, Tensor]:
    r"""Average the pixel features of each class in each image: the regions of Section 3.2.

    With a(n,c,p) the weight of class c at feature cell p of image n,

    .. math::

        f_r = \frac{\sum_p a(n,c,p) \, x(n,p)}{\sum_p a(n,c,p)}

    for each (n, c) with a positive sum.

    ``"nearest"`` takes a = 1 where the label map, resized by nearest neighbour to the size of the
    features, shows c. ``"area"`` takes the share of the cell's label pixels that show c, so that a
    region smaller than a cell is not lost.

    Sums are accumulated in float32 (float64 for float64 features) whatever the features' type and
    also under autocast: a region can have 10^4 cells, too many for half precision.

    Args:
        features: (N, C, H, W), floating point.
        labels: (N, h, w), integers in 0..num_classes-1 or ``ignore_label``.
        num_classes: K.
        ignore_label: pixels with this label belong to no region.
        scope: ``"image"``, one region per class and image (the paper's, as in Eq. 7), or
            ``"batch"``, one per class over all images given.
        downsampling: ``"nearest"`` (common practice) or ``"area"``.

    Returns:
        region_features (R, C), float32 or float64, differentiable with respect to ``features``; and
        region_classes (R,), int64. Ordered by image, then class. R is 0 if no pixel is valid.

    Raises:
        ValueError: wrong shapes, an unknown option, or a label out of range.
    """
    _check_pool_arguments(features, labels, scope, downsampling)
    C, H, W = features.shape[1:]
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        resize = _nearest_cells if downsampling == "nearest" else _area_cells
        weights, images, slots, classes = resize(labels, (H, W), num_classes, ignore_label)
        weights = weights.to(torch.promote_types(features.dtype, torch.float32))

    with torch.autocast(features.device.type, enabled=False):
        sums = _weighted_sums(features, weights)
        sums, areas = sums[images, :, slots], weights.sum(dim=2)[images, slots]
        if scope == "batch":
            classes, region = classes.unique(return_inverse=True)
            sums = sums.new_zeros(len(classes), C).index_add(0, region, sums)
            areas = areas.new_zeros(len(classes)).index_add(0, region, areas)
        return sums / areas[:, None], classes


@torch.no_grad()
def count_regions(
    labels: Tensor,
    size: tuple[int, int],
    num_classes: int,
    *,
    ignore_label: int = 255,
    scope: str = "image",
    downsampling: str = "nearest",
) -> int:
    """R of :func:`pool_regions` from the labels alone.

    Args:
        labels: (N, h, w), integers in 0..num_classes-1 or ``ignore_label``.
        size: height and width (H, W) of the features.
        num_classes: K.
        ignore_label: label of the pixels that belong to no region.
        scope: ``"image"`` or ``"batch"``, as for :func:`pool_regions`.
        downsampling: ``"nearest"`` or ``"area"``, as for :func:`pool_regions`.

    Raises:
        ValueError: a label out of range.
    """
    if downsampling == "nearest":
        labels = nearest_labels(labels, size)
    classes = _present_classes(labels, num_classes, ignore_label)[3]
    return len(classes.unique() if scope == "batch" else classes)


def balanced_softmax_loss(logits: Tensor, classes: Tensor, class_counts: Tensor) -> Tensor:
    r"""The region loss, Eq. 8: softmax cross-entropy with the region frequency as prior.

    .. math::

        L_\mathrm{reg} = \frac{1}{R} \sum_r -\log \frac{F(r_y) \exp r_y}{\sum_k F(k) \exp r_k}

    that is :func:`longtail.losses.cross_entropy.cross_entropy` with the prior F. The scale of F
    cancels; equal counts give plain cross-entropy. A class with F = 0 is left out of the
    denominator.

    Args:
        logits: (R, K) region logits; computed in float32 at least.
        classes: (R,) integers in 0..K-1.
        class_counts: (K,) region frequencies F of Eq. 7 (images that show the class), >= 0.

    Returns:
        The mean over the regions, a scalar; zero, with a zero gradient, if R is 0. With several
        processes, which must all call this, the average of what they get is the mean over the
        regions of all of them.

    Raises:
        ValueError: wrong shapes, or a region whose class has F = 0.
    """
    _, K = logits.shape
    if class_counts.shape != (K,):
        raise ValueError(
            f"class_counts must have shape ({K},), one count for each logit, "
            f"got {tuple(class_counts.shape)}"
        )
    class_counts = class_counts.to(logits.device)
    unknown = class_counts[classes] <= 0
    if unknown.any():
        missing = sorted(set(classes[unknown].tolist()))
        raise ValueError(
            f"a region of class {missing} occurs, but class_counts has no image with it: the "
            "class statistics do not belong to this data set; compute them from the training set"
        )
    return cross_entropy(logits, classes, class_prior=class_counts)


def _check_pool_arguments(features: Tensor, labels: Tensor, scope: str, downsampling: str) -> None:
    if features.ndim != 4:
        raise ValueError(f"features must have shape (N, C, H, W), got {tuple(features.shape)}")
    if labels.ndim != 3 or labels.shape[0] != features.shape[0]:
        raise ValueError(
            f"labels must have shape (N, h, w) with N = {features.shape[0]} as the features, "
            f"got {tuple(labels.shape)}"
        )
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, got {scope!r}")
    if downsampling not in DOWNSAMPLINGS:
        raise ValueError(f"downsampling must be one of {DOWNSAMPLINGS}, got {downsampling!r}")


def _weighted_sums(features: Tensor, weights: Tensor) -> Tensor:
    """(N, C, H, W) features by (N, P, H*W) weights to (N, C, P) sums, of the weights' type."""
    if features.dtype != weights.dtype:
        return _HalfPrecisionSums.apply(features, weights)
    # One padded matrix product reads the features once; in these orders of the factors its backward
    # writes their gradient once, in the features' own memory layout.
    if _is_channels_last(features):
        return torch.bmm(weights, features.permute(0, 2, 3, 1).flatten(1, 2)).transpose(1, 2)
    return torch.bmm(features.flatten(2), weights.transpose(1, 2))


def _is_channels_last(features: Tensor) -> bool:
    last = features.is_contiguous(memory_format=torch.channels_last)
    return last and not features.is_contiguous()


class _HalfPrecisionSums(torch.autograd.Function):
    """The same for features of half precision, which are never held in float32 as a whole."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.shape, ctx.dtype = features.shape, features.dtype
        ctx.channels_last = _is_channels_last(features)
        sums = weights.new_zeros(*features.shape[:2], weights.shape[1])
        for image, weight, total in zip(features.flatten(2), weights, sums, strict=True):
            for part in _parts(image):
                total.addmm_(image[:, part].to(weight.dtype), weight[:, part].T)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        layout = torch.channels_last if ctx.channels_last else torch.contiguous_format
        result = torch.empty(
            ctx.shape, dtype=ctx.dtype, device=gradient.device, memory_format=layout
        )
        for image, weight, slope in zip(result.flatten(2), weights, gradient, strict=True):
            for part in _parts(image):
                # The product comes in the layout that it is copied to.
                if ctx.channels_last:
                    image[:, part] = (weight[:, part].T @ slope.T).T
                else:
                    image[:, part] = slope @ weight[:, part]
        return result, None


def _parts(image: Tensor) -> list[slice]:
    """Pixels of a (C, L) image that are converted to float32 at a time."""
    C, L = image.shape
    step = max(1, ELEMENTS_AT_A_TIME // C)
    return [slice(start, start + step) for start in range(0, L, step)]


def _nearest_cells(
    labels: Tensor, size: tuple[int, int], num_classes: int, ignore: int
) -> tuple[Tensor, ...]:
    """Weights 0 or 1 of the classes present; see ``_present_classes`` for the rest."""
    cells = nearest_labels(labels, size)
    slot_of_cell, images, slots, classes, P = _present_classes(cells, num_classes, ignore)
    weights = torch.zeros(len(labels), P + 1, slot_of_cell.shape[1], device=labels.device)
    weights.scatter_(1, slot_of_cell[:, None], 1.0)
    return weights[:, :P], images, slots, classes


def _area_cells(
    labels: Tensor, size: tuple[int, int], num_classes: int, ignore: int
) -> tuple[Tensor, ...]:
    """Weights in [0, 1]: the share of a cell's pixels; see ``_present_classes``."""
    slot_of_pixel, images, slots, classes, P = _present_classes(labels, num_classes, ignore)
    weights = torch.empty(len(labels), P, size[0] * size[1], device=labels.device)
    shares = _shares_of_whole_cells if _divides(size, labels.shape[1:]) else _shares
    # One image at a time: the largest tensors here are those of a share.
    for weight, pixel_slots in zip(weights, slot_of_pixel.view_as(labels), strict=True):
        weight.copy_(shares(pixel_slots, size, P + 1)[:P])
    return weights, images, slots, classes


def _divides(size: tuple[int, int], label_size: torch.Size) -> bool:
    return all(side % cells == 0 for side, cells in zip(label_size, size, strict=True))


def _shares(slots: Tensor, size: tuple[int, int], num_slots: int) -> Tensor:
    """(h, w) slots to (num_slots, H*W) shares, in windows that may overlap."""
    one_hot = F.one_hot(slots, num_slots).permute(2, 0, 1)
    return F.adaptive_avg_pool2d(one_hot.float(), size).flatten(1)


def _shares_of_whole_cells(slots: Tensor, size: tuple[int, int], num_slots: int) -> Tensor:
    """The same where each pixel lies in one cell: the pixels are counted, far quicker."""
    (h, w), (H, W) = slots.shape, size
    rows = torch.arange(h, device=slots.device) // (h // H) * W
    columns = torch.arange(w, device=slots.device) // (w // W)
    places = (rows[:, None] + columns) + slots * (H * W)
    counts = torch.bincount(places.flatten(), minlength=num_slots * H * W)
    return counts.view(num_slots, H * W) / ((h // H) * (w // W))


def _present_classes(
    labels: Tensor, num_classes: int, ignore: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Number the classes that each image shows: its slots.

    Args:
        labels: (N, h, w), 0..K-1 or ``ignore``.
        num_classes: K.
        ignore: label of the pixels that belong to no class.

    Returns:
        slot of each pixel (N, h*w) in 0..P, where P stands for ignored; then image, slot and class
        of each of the R regions, (R,) each; and P.
    """
    labels = labels.flatten(1).long()
    ignored = labels == ignore
    out_of_range = ((labels < 0) | (labels >= num_classes)) & ~ignored
    # Two more columns, for ignored pixels and those out of range.
    columns = labels.masked_fill(ignored, num_classes).masked_fill(out_of_range, num_classes + 1)
    present = torch.zeros(len(labels), num_classes + 2, dtype=torch.bool, device=labels.device)
    # On a GPU the one transfer that the branch waits for: all sizes follow from this table.
    present = present.scatter_(1, columns, True).cpu()
    if present[:, num_classes + 1].any():
        bad = labels[out_of_range][0].item()
        raise ValueError(
            f"labels contain {bad}, expected 0..{num_classes - 1} or the ignore label: "
            "check the data set's label maps and num_classes"
        )
    present = present[:, :num_classes]
    images, classes = present.nonzero(as_tuple=True)
    slot_of_class = present.cumsum(dim=1) - 1
    slots = slot_of_class[images, classes]
    P = int(slots.max()) + 1 if len(slots) else 0
    slot_of_class = torch.cat([slot_of_class, slot_of_class.new_full((len(labels), 1), P)], dim=1)
    slot_of_class, images, slots, classes = (
        part.to(labels.device, non_blocking=True)
        for part in (slot_of_class, images, slots, classes)
    )
    return slot_of_class.gather(1, columns), images, slots, classes, P
