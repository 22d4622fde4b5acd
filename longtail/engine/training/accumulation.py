# SPDX-License-Identifier: Apache-2.0
r"""Gradient accumulation: how much each part of a batch counts.

A loss is a mean over something, the valid pixels or the regions of a batch, of which parts of equal
size hold different numbers. With R_m that number in part m over all processes, and L_m the loss of
part m alone, the loss of the batch is

.. math::

    L = \sum_m \frac{R_m}{\sum_j R_j} L_m

The plain mean of the L_m would let every pixel of a part with few valid ones count more. Only what
couples the images of a batch, batch statistics and regions over whole batches, sees the part alone.
"""

import torch
import torch.distributed as dist
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def split_batch(batch: list[dict], parts: int) -> list[list[dict]]:
    """The batch in equal parts, in order.

    Raises:
        ValueError: its length is not a multiple of ``parts``.
    """
    size, rest = divmod(len(batch), parts)
    if rest or not size:
        raise ValueError(
            f"SOLVER.ACCUMULATION_STEPS {parts} does not divide the {len(batch)} images of a "
            "process: make SOLVER.IMS_PER_BATCH a multiple of it times the number of processes"
        )
    return [batch[start : start + size] for start in range(0, len(batch), size)]


@torch.no_grad()
def part_weights(model: nn.Module, parts: list[list[dict]]) -> list[dict[str, Tensor]]:
    """The factors R_m / sum_j R_j.

    Args:
        model: an image classifier; a semantic segmentor whose head has ``loss_normalizers``, see
            :meth:`.SemSegHead.loss_normalizers`; or any other model.
        parts: what :func:`split_batch` gave.

    Returns:
        For each part a scalar for each loss that the model can say it of. Losses without one are
        taken for means over images: they count 1 / number of parts. Those of detectors are means
        over the RoIs that are sampled in a part, of which nothing is known before.

    Raises:
        ValueError: the losses of parts do not add up.
    """
    if len(parts) == 1:
        return [{}]
    numbers = [_loss_normalizers(model, part) for part in parts]
    names = list(numbers[0])
    if not names:
        return [{} for _ in parts]
    table = torch.stack([torch.stack([part[name].float() for name in names]) for part in numbers])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(table)
    total = table.sum(dim=0)
    # Where nothing is valid all losses are 0, and so may be their weights.
    weights = table / torch.where(total > 0, total, 1)
    return [dict(zip(names, row, strict=True)) for row in weights]


def _loss_normalizers(model: nn.Module, part: list[dict]) -> dict[str, Tensor]:
    model = model.module if isinstance(model, DistributedDataParallel) else model
    if hasattr(model, "loss_normalizers"):
        return model.loss_normalizers(part)
    head = getattr(model, "sem_seg_head", None)
    if not hasattr(head, "loss_normalizers") or "sem_seg" not in part[0]:
        return {}
    # As the segmentor pads them.
    labels = [record["sem_seg"].to(model.device) for record in part]
    divisibility = getattr(model, "size_divisibility", model.backbone.size_divisibility)
    targets = ImageList.from_tensors(labels, divisibility, head.ignore_value).tensor
    return head.loss_normalizers(targets)
