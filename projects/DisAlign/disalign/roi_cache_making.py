# SPDX-License-Identifier: Apache-2.0
"""The making of a cache of RoI features, as ``longtail cache-roi-features`` does it."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from disalign.roi_cache import write_shard
from disalign.roi_cache_index import (
    DTYPE_KEY,
    INDEX_FILE,
    Index,
    check_same,
    expected_index,
    read_index,
    shard_name,
    write_index,
)
from longtail.data.datasets.sharing import records_read_once
from longtail.engine import Trainer
from longtail.engine.training.stages import load_second_stage
from longtail.engine.training.trainer import build_mapper, training_records
from longtail.modeling.roi_heads import RoIs
from longtail.utils.command_line import check_output_folder


class AugmentedImages(Dataset):
    """The training mapper's output for the k-th image of the cache, a function of k alone."""

    def __init__(self, records: Sequence[dict], mapper: Callable, numbers: Sequence[int]) -> None:
        """Choose the images that are to be computed.

        Args:
            records: the N records of the training set.
            mapper: from a record to the model's input.
            numbers: epoch * N + image, for each image that is to be computed.
        """
        self.records, self.mapper, self.numbers = records, mapper, numbers

    def __len__(self) -> int:
        """The images that are to be computed."""
        return len(self.numbers)

    def __getitem__(self, position: int) -> dict:
        """Read and augment an image, seeded by its number."""
        number = self.numbers[position]
        # In whichever process, and whatever was drawn there before.
        seed_all_rng(number)
        return self.mapper(self.records[number % len(self.records)])


@records_read_once()
def make_cache(cfg: CfgNode, folder: Path, epochs: int) -> None:
    """Write what is missing of a cache; in a distributed run each process writes a part of it.

    The processes need a folder that they share; the files are those of one process, bit for bit.

    Args:
        cfg: config of a second stage.
        folder: the cache; made if it does not exist.
        epochs: how often every image is in it; a cache that has more keeps them.

    Raises:
        ValueError, OSError: bad input, a cache of something else, or too little space.
    """
    records = training_records(cfg)
    index = _index(folder, expected_index(cfg, records, epochs))
    missing = index.missing_shards(folder)
    is_main = comm.is_main_process()
    if not missing:
        if is_main:
            print(f"{folder} is complete: {index.num_images} images, {index.epochs} epochs")
        return
    model = Trainer.build_model(cfg)
    load_second_stage(model, cfg.MODEL.WEIGHTS, index.class_names)
    if is_main:
        _check_space(model, index, missing, folder)
        write_index(folder, index)
    # Whoever is late would find the index of this very cache, or miss its folder.
    comm.synchronize()
    missing = missing[comm.get_rank() :: comm.get_world_size()]
    numbers = [e * index.num_images + image for s in missing for e, image in index.images(s)]
    inputs = DataLoader(
        AugmentedImages(records, build_mapper(cfg, cfg.DATASETS.TRAIN[0], True), numbers),
        batch_size=None,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        # The default would look into the items for arrays.
        collate_fn=_as_it_is,
    )
    stream = zip(numbers, inputs, strict=True)
    total = len(numbers)
    with tqdm(total=total, desc="RoI features", unit="image", disable=not is_main) as progress:
        for shard in missing:
            images = []
            for _ in index.images(shard):
                images.append(_compute(model, *next(stream), index.dtype))
                progress.update()
            write_shard(folder / shard_name(shard), images)
    comm.synchronize()


def _as_it_is(item: dict) -> dict:
    return item


def _index(folder: Path, expected: Index) -> Index:
    """The index of the cache that is there, with as many epochs as asked for, or a new one."""
    check_output_folder(folder)
    if not (folder / INDEX_FILE).exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"--output {folder} is neither a cache nor empty: name another folder")
        return expected
    index = read_index(folder)
    check_same(folder, index, expected)
    return replace(index, epochs=max(index.epochs, expected.epochs))


def _check_space(model: nn.Module, index: Index, missing: list[int], folder: Path) -> None:
    """Say what the missing files will take, and raise a ValueError if they do not fit."""
    heads = model.roi_heads
    channels = heads.predictors[0].cls_score.in_features
    rois, stages = heads.batch_size_per_image, len(heads.predictors)
    images = sum(len(index.images(shard)) for shard in missing)
    # Features and an int64 class.
    size = images * rois * stages * (channels * index.dtype.itemsize + 8)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    of_stages = f"{stages} stages" if stages > 1 else "1 stage"
    print(
        f"{images} images x {rois} RoIs x {of_stages} x ({channels} channels x "
        f"{index.dtype.itemsize} + 8 bytes) = up to {_readable(size)} in {folder}, "
        f"{_readable(free)} are free",
        flush=True,
    )
    if size > free:
        raise ValueError(
            f"the features take up to {_readable(size)}, but {folder} has {_readable(free)} free: "
            "name another --output, or lower --epochs or MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"
            + f", or set {DTYPE_KEY} to float16"
            * (index.dtype == torch.float32)
        )


def _readable(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@torch.no_grad()
def _compute(model: nn.Module, number: int, item: dict, dtype: torch.dtype) -> list[RoIs]:
    """The RoIs of one image, a function of the number and the image alone.

    Alone in its batch: padding to the size of another image would change its features.

    Raises:
        ValueError: a feature is beyond the range of the type.
    """
    seed_all_rng(number)
    # The heads count foreground and background into it.
    with EventStorage():
        rois = model.sample_rois([item])
    found = [RoIs(features.to(dtype).cpu(), classes.cpu()) for features, classes in rois]
    if any(stage.features.isinf().any() for stage in found):
        raise ValueError(
            f"a feature of {item['file_name']} is beyond the range of {str(dtype)[6:]}: set "
            f"{DTYPE_KEY} to float32, or look whether the weights are sound"
        )
    return found
