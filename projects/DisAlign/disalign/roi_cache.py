# SPDX-License-Identifier: Apache-2.0
"""RoI features kept on disk: the file format, and training on it.

What the calibration learns from is the output of frozen modules, so it can be computed once and
read as often as one likes. ``longtail cache-roi-features`` writes a cache. It is a folder:
``cache.json`` says what the features were computed from and how many there are (:class:`.Index`);
``shard_000000.pt``, ... hold them (:func:`write_shard`).

Shape alphabet:
    N: images of the training set
    E: epochs, how often every image is in the cache, each time newly augmented and sampled
    M: images of a shard
    S: stages of the box head
    R: RoIs
    C: channels of a RoI's feature
"""

import itertools
import os
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from longtail.data.samplers.training import build_train_sampler
from longtail.engine.training.loader import TrainingLoader
from longtail.modeling.roi_heads import RoIs
from longtail.utils.io import atomic_write

from .roi_cache_index import Index, check_same, expected_index, read_index, shard_name


def write_shard(path: str | os.PathLike, images: Sequence[Sequence[RoIs]]) -> None:
    """Write a shard, atomically: a dict of tensors in torch's format.

    ``features``: for each stage (R, C); ``classes``: for each stage (R,) int64; both over all
    images, one after the other; ``counts``: (M, S) int64, RoIs of each image; ``checksums``: (M,)
    int64, CRC-32 of each image's tensors.

    Args:
        path: the file.
        images: for each of M images its RoIs at each of S stages, on the CPU, their features in
            the type that the cache is to have.
    """
    stages = list(zip(*images, strict=True))
    content = {
        "features": [torch.cat([rois.features for rois in stage]) for stage in stages],
        "classes": [torch.cat([rois.classes for rois in stage]) for stage in stages],
        "counts": torch.tensor([[len(rois.classes) for rois in image] for image in images]),
        "checksums": torch.tensor([_checksum(image) for image in images]),
    }
    with atomic_write(path, "wb") as file:
        torch.save(content, file)


class RoICache:
    """A complete cache, read where it lies: only what is asked for comes into memory."""

    def __init__(self, folder: str | os.PathLike, expected: Index) -> None:
        """Open a cache and compare it with what this training expects.

        Args:
            folder: the cache.
            expected: what the features must have been computed from; its epochs do not matter.

        Raises:
            FileNotFoundError: there is no cache.
            ValueError: it is damaged, incomplete, or was computed from something else.
        """
        self.folder = Path(folder)
        command = f"longtail cache-roi-features --config-file <this config> --output {folder}"
        try:
            self.index = read_index(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; make it with: {command}") from None
        check_same(folder, self.index, expected)
        self._remake = f"{command} --epochs {self.index.epochs}"
        missing = self.index.missing_shards(folder)
        if missing:
            total = self.index.epochs * self.index.shards_per_epoch
            raise ValueError(
                f"the RoI features in {folder} are incomplete, {len(missing)} of {total} files are "
                f"missing: continue with: {self._remake}"
            )
        self._shards: dict[int, dict[str, Any]] = {}
        self._verified: set[tuple[int, int]] = set()

    def read(self, epoch: int, image: int) -> list[RoIs]:
        """The RoIs of an image, one item for each of S stages; views of the memory-mapped file.

        Raises:
            ValueError: the file is damaged.
        """
        block, position = divmod(image, self.index.images_per_shard)
        number = epoch * self.index.shards_per_epoch + block
        if number not in self._shards:
            self._shards[number] = self._open(number)
        shard = self._shards[number]
        spans = zip(shard["starts"][position], shard["counts"][position], strict=True)
        rois = [
            RoIs(features.narrow(0, start, count), classes.narrow(0, start, count))
            for (start, count), features, classes in zip(
                spans, shard["features"], shard["classes"], strict=True
            )
        ]
        # Once: the whole cache costs one pass over it, not one an iteration.
        if (epoch, image) not in self._verified:
            if _checksum(rois) != shard["checksums"][position]:
                raise self._damaged(number, "wrong checksum")
            self._verified.add((epoch, image))
        return rois

    def _open(self, number: int) -> dict[str, Any]:
        path = self.folder / shard_name(number)
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            counts = content["counts"]
            # Plain numbers: they are read one by one.
            return {
                "features": content["features"],
                "classes": content["classes"],
                "starts": (counts.cumsum(0) - counts).tolist(),
                "counts": counts.tolist(),
                "checksums": content["checksums"].tolist(),
            }
        # A damaged file can fail in any of torch's and pickle's ways.
        except Exception as error:
            raise self._damaged(number, type(error).__name__) from None

    def _damaged(self, number: int, reason: str) -> ValueError:
        return ValueError(
            f"{self.folder / shard_name(number)} is damaged ({reason}): delete this file, then: "
            f"{self._remake}"
        )


class CachedRoIsMapper:
    """Give the cached RoIs of an image instead of reading and augmenting it."""

    def __init__(self, cache: RoICache) -> None:
        """Draw the features of images from a complete cache."""
        self.cache = cache

    def __call__(self, record: dict) -> dict[str, list[RoIs]]:
        """Turn ``{"index": image}`` into ``{"rois": ...}``, as DisAlignRCNN takes them."""
        # From a generator that is seeded for the position, as augmentations are.
        epoch = random.randrange(self.cache.index.epochs)
        rois = self.cache.read(epoch, record["index"])
        return {"rois": [RoIs(stage.features.float(), stage.classes) for stage in rois]}


def build_roi_cache_loader(cfg: CfgNode, records: Sequence[dict]) -> TrainingLoader:
    """Endless batches of ``SOLVER.IMS_PER_BATCH`` cached images.

    Args:
        cfg: config of a second stage; ``MODEL.DISALIGN.ROI_FEATURE_CACHE`` names the folder, and
            ``DATALOADER.SAMPLER_TRAIN`` says in which order images are drawn. Which of its epochs
            an image is taken from is drawn uniformly.
        records: the training set.

    Raises:
        FileNotFoundError, ValueError: as :class:`RoICache` and :func:`.expected_index`.
    """
    cache = RoICache(cfg.MODEL.DISALIGN.ROI_FEATURE_CACHE, expected_index(cfg, records))
    # What samplers look at; polygons would be copied with every image.
    dataset = [{"index": i, **_without_shapes(record)} for i, record in enumerate(records)]
    # There are no images whose padding grouping would save, and nothing to decode.
    return TrainingLoader(
        dataset,
        CachedRoIsMapper(cache),
        build_train_sampler(cfg, dataset),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
    )


def _without_shapes(record: dict) -> dict[str, list[dict]]:
    if "annotations" not in record:
        return {}
    keys = ("category_id", "iscrowd")
    return {"annotations": [{k: a[k] for k in keys if k in a} for a in record["annotations"]]}


def _checksum(rois: Sequence[RoIs]) -> int:
    value = 0
    for part in itertools.chain(*rois):
        value = zlib.crc32(part.numpy(), value)
    return value
