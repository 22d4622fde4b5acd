# SPDX-License-Identifier: Apache-2.0
"""Copy-paste: parts of another training image, drawn by its classes, are pasted into an image.

Instances as in Ghiasi et al., CVPR 2021 (arXiv 2012.07177): both images are augmented, then a
random subset of the objects of one covers what is behind it in the other. For semantic segmentation
the pixels of one class, before the augmentation, which follows for the whole.

Everything is drawn from numpy's global generator, which the loader seeds for each position of its
stream: the same with any number of workers, and after a resume.

Shapes: N images, M pairs of a class and one of its images, (H, W) size of an image, (h, w) of the
other one, n instances.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.data.mappers.sem_seg import SemSegDatasetMapper
from longtail.data.samplers.by_class import ClassBalancedTrainingSampler
from longtail.data.samplers.training import sampler_class

# detectron2 and the loader seed numpy's global generator.
# ruff: noqa: NPY002

KEY = "INPUT.COPY_PASTE"
Mapper = Callable[[dict[str, Any]], dict[str, Any]]


def with_copy_paste(cfg: CfgNode, mapper: Mapper, records: Sequence[dict]) -> Mapper:
    """Let a mapper of training images paste, if the config says so.

    Args:
        cfg: read for INPUT.COPY_PASTE, and for what its sampler needs.
        mapper: of the training images.
        records: the N records of the training set in detectron2's format.

    Returns:
        The mapper as it is with PROBABILITY 0.

    Raises:
        ValueError: the data set has nothing that could be pasted, instances come without masks of
            pixels, or the sampler does not draw what is needed.
    """
    options = cfg.INPUT.COPY_PASTE
    if not options.PROBABILITY:
        return mapper
    by_label_map = isinstance(mapper, SemSegDatasetMapper)
    if not by_label_map:
        _check_instances(cfg, mapper, records)
    kind = sampler_class(options.SAMPLER, f"{KEY}.SAMPLER")
    if by_label_map and not issubclass(kind, ClassBalancedTrainingSampler):
        raise ValueError(
            f"{KEY}.SAMPLER {options.SAMPLER} does not draw a class, whose pixels are pasted: name "
            "RareClassTrainingSampler, SquareRootTrainingSampler or ClassBalancedTrainingSampler"
        )
    # Its seed is not used: the generator of the position draws.
    sampler = kind.from_records(cfg, records, seed=0)
    if by_label_map:
        if cfg.INPUT.REDUCED_DECODING:
            raise ValueError(
                f"{KEY}.PROBABILITY {options.PROBABILITY:g}: regions are pasted into whole images, "
                "before their window is drawn: set INPUT.REDUCED_DECODING to False"
            )
        mapper.paste = RegionCopyPaste(records, sampler.pairs(), options.PROBABILITY)
        return mapper
    try:
        shares = sampler.shares(len(records))
    except NotImplementedError as error:
        raise ValueError(f"{KEY}.SAMPLER: {error}: name another sampler") from None
    # Serialized, so that workers share the memory.
    others = DatasetFromList(list(records), copy=False)
    return InstanceCopyPaste(mapper, others, shares, options.PROBABILITY)


def _check_instances(cfg: CfgNode, mapper: Mapper, records: Sequence[dict]) -> None:
    if isinstance(mapper, ClassificationDatasetMapper) or not all(
        "annotations" in record and "sem_seg_file_name" not in record for record in records
    ):
        raise ValueError(
            f"{KEY}.PROBABILITY {cfg.INPUT.COPY_PASTE.PROBABILITY:g}: only instances of detection "
            "and regions of semantic segmentation can be pasted, but "
            f"{', '.join(cfg.DATASETS.TRAIN)} has other labels: set it to 0"
        )
    needed = {"MODEL.MASK_ON": True, "INPUT.MASK_FORMAT": "bitmask", "MODEL.KEYPOINT_ON": False}
    given = [cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT, cfg.MODEL.KEYPOINT_ON]
    for (key, value), found in zip(needed.items(), given, strict=True):
        if found != value:
            raise ValueError(
                f"{KEY}.PROBABILITY {cfg.INPUT.COPY_PASTE.PROBABILITY:g}: pasted instances cover "
                f"others, which needs masks of pixels: set {key} to {value}, got {found!r}; or "
                "PROBABILITY to 0"
            )


class InstanceCopyPaste:
    """A mapper that pastes instances of another image into what a mapper gives."""

    def __init__(
        self, mapper: Mapper, records: Sequence[dict], shares: Tensor, probability: float
    ) -> None:
        """Set what is pasted how often.

        Args:
            mapper: of a record, to ``image`` and ``instances`` with ``gt_masks`` of pixels.
            records: N records that instances are taken from.
            shares: (N,) float64, the probability of each record.
            probability: p that something is pasted into an image, in [0, 1].
        """
        self.mapper, self.records, self.probability = mapper, records, probability
        self._ends = shares.numpy().cumsum()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record, and paste with probability p.

        Of the other image's n instances k are pasted, k uniform in 1..n, every subset of k alike.
        """
        target = self.mapper(record)
        if np.random.random() >= self.probability:
            return target
        source = self.mapper(self.records[_draw(self._ends)])
        number = len(source["instances"])
        if not number:
            return target
        chosen = np.random.permutation(number)[: np.random.randint(number) + 1]
        size, other = target["image"].shape[1:], source["image"].shape[1:]
        top, left = (_offset(a, b) for a, b in zip(size, other, strict=True))
        objects = source["instances"][np.sort(chosen).tolist()]
        return paste_instances(target, source["image"], objects, top, left)


def paste_instances(
    target: dict[str, Any], image: Tensor, objects: Instances, top: int, left: int
) -> dict[str, Any]:
    """Paste instances into a mapped image.

    What they cover is taken from the masks of the others: instances of which nothing is left are
    removed, and boxes of the pasted and of those that lost pixels are those of their masks.

    Args:
        target: ``image`` (3, H, W) and ``instances``.
        image: (3, h, w) that the instances are in.
        objects: n instances with ``gt_masks`` (n, h, w) of pixels.
        top: row of the target where the other image's first row comes, may be negative.
        left: the same for columns.

    Returns:
        The target with another ``image`` and other ``instances``; first its own, then the pasted.
    """
    size = target["image"].shape[1:]
    masks = _moved(objects.gt_masks.tensor, size, top, left)
    pasted = _with_masks(objects, masks, size)
    covered = masks.any(0)
    pixels = torch.where(covered, _moved(image, size, top, left), target["image"])
    own = target["instances"]
    # Without any, there are no masks either.
    if len(own):
        visible = own.gt_masks.tensor & ~covered
        lost = (visible != own.gt_masks.tensor).flatten(1).any(1)
        boxes = own.gt_boxes.tensor
        own = _with_masks(own, visible, size, boxes=boxes, changed=lost)
        pasted = Instances.cat([own, pasted])
    return {**target, "image": pixels, "instances": pasted}


def _with_masks(
    instances: Instances,
    masks: Tensor,
    size: tuple[int, int],
    boxes: Tensor | None = None,
    changed: Tensor | None = None,
) -> Instances:
    """Give instances other masks (n, H, W), and all or the changed ones their boxes."""
    found = Instances(tuple(size))
    found.gt_masks = BitMasks(masks)
    found.gt_boxes = found.gt_masks.get_bounding_boxes()
    if boxes is not None:
        tight = found.gt_boxes.tensor
        found.gt_boxes.tensor = torch.where(changed[:, None], tight, boxes.to(tight.dtype))
    found.gt_classes = instances.gt_classes
    return found[masks.flatten(1).any(1)]


def _moved(values: Tensor, size: tuple[int, int], top: int, left: int) -> Tensor:
    """Put (n, h, w) into zeros (n, H, W), from row ``top`` and column ``left`` on."""
    moved = values.new_zeros((len(values), *size))
    height, width = values.shape[1:]
    bottom, right = min(top + height, size[0]), min(left + width, size[1])
    y, x = max(top, 0), max(left, 0)
    if bottom > y and right > x:
        moved[:, y:bottom, x:right] = values[:, y - top : bottom - top, x - left : right - left]
    return moved


class RegionCopyPaste:
    """Pastes the pixels of one class of another image into an image and its labels."""

    def __init__(
        self,
        records: Sequence[dict],
        pairs: tuple[Tensor, Tensor, Tensor],
        probability: float,
    ) -> None:
        """Set what is pasted how often.

        Args:
            records: N records with ``file_name`` and ``sem_seg_file_name``.
            pairs: classes (M,), indices of images (M,) that have them, and the probability of each
                pair, (M,).
            probability: p that something is pasted into an image, in [0, 1].
        """
        self.probability = probability
        self._files = [(str(r["file_name"]), str(r["sem_seg_file_name"])) for r in records]
        self._classes, self._images = (part.numpy() for part in pairs[:2])
        self._ends = pairs[2].numpy().cumsum()

    def __call__(
        self,
        image: np.ndarray,
        labels: np.ndarray,
        read: Callable[[str, str], tuple[np.ndarray, np.ndarray]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paste with probability p.

        Args:
            image: (H, W, 3) uint8.
            labels: (H, W) uint8.
            read: from the files of an image and its label map to both.

        Returns:
            Both; copies if something was pasted. The box around the region comes at a place that
            is uniform among those where it is all inside, or, if it is larger, covers the image.
        """
        if np.random.random() >= self.probability:
            return image, labels
        pair = _draw(self._ends)
        source, source_labels = read(*self._files[self._images[pair]])
        label = self._classes[pair]
        region = source_labels == label
        rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        region, source = region[box], source[box]
        top, left = (_offset(a, b) for a, b in zip(labels.shape, region.shape, strict=True))
        return paste_region(image, labels, source, region, label, top, left)


def paste_region(
    image: np.ndarray,
    labels: np.ndarray,
    source: np.ndarray,
    region: np.ndarray,
    label: int,
    top: int,
    left: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Copy the pixels of a region, with one label.

    Args:
        image: (H, W, 3) uint8 that they come into.
        labels: (H, W) uint8.
        source: (h, w, 3) uint8 that they are taken from.
        region: (h, w) bool.
        label: of the pasted pixels.
        top: row of the image where the first row of the source comes, may be negative.
        left: the same for columns.

    Returns:
        Copies of image and labels with the pixels.
    """
    image, labels = image.copy(), labels.copy()
    y, x = np.nonzero(region)
    rows, columns = y + top, x + left
    height, width = labels.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = rows[inside], columns[inside]
    image[rows, columns] = source[y[inside], x[inside]]
    labels[rows, columns] = label
    return image, labels


def _draw(ends: np.ndarray) -> int:
    """Draw an index with the probabilities that add up to ``ends``."""
    place = np.searchsorted(ends, np.random.random() * ends[-1], side="right")
    # At most the last: the products may round up to the end.
    return int(min(place, len(ends) - 1))


def _offset(size: int, other: int) -> int:
    """Draw where something starts so that the smaller of both is inside of the larger."""
    low, high = sorted((0, size - other))
    return int(np.random.randint(low, high + 1))
