# SPDX-License-Identifier: Apache-2.0
"""The index of a cache of RoI features: their origin and their number.

Shape alphabet:
    N: images of the training set
    E: epochs, how often every image is in the cache, each time newly augmented and sampled
    M: images of a shard
    K: classes
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.file_io import PathManager

from longtail.config import get_cfg
from longtail.config.loading import flat_config
from longtail.data.datasets.classes import class_names
from longtail.modeling import SecondStageRCNN
from longtail.utils.downloads import file_sha256
from longtail.utils.io import write_json

# To be raised when the same config gives other features, or the files change: against old caches.
FORMAT_VERSION = 2
# What is lost when the tool is interrupted: at most this many images.
IMAGES_PER_SHARD = 64
INDEX_FILE = "cache.json"
# Keys of MODEL that say where the model is and what is trained, not what the frozen modules
# compute: all second stages of a detector share a cache. The weights count by their content, not by
# their place.
WITHOUT_INFLUENCE = (
    "MODEL.WEIGHTS",
    "MODEL.DEVICE",
    "MODEL.DISALIGN.",
    "MODEL.META_ARCHITECTURE",
    "MODEL.ROI_BOX_HEAD.CLASS_LOSS",
    "MODEL.CLASS_LOSS.",
)
# The exception: rounded features are others.
DTYPE_KEY = "MODEL.DISALIGN.ROI_FEATURE_DTYPE"
DTYPES = {"float32": torch.float32, "float16": torch.float16}
SHOWN_KEYS = 3
# More images than any data set has, and all that six digits can number.
LARGEST = 10**9
MOST_FILES = 10**6


@dataclass(frozen=True)
class Index:
    """The content of ``cache.json``.

    Attributes:
        version: FORMAT_VERSION.
        weights: SHA-256 of the first stage's checkpoint.
        data: SHA-256 of the training set's records.
        config: the values that features depend on, by the full names of their keys.
        class_names: K names of the training set's classes, in their order.
        num_images: N.
        images_per_shard: M; the last shard of an epoch may have fewer.
        epochs: E.
    """

    version: int
    weights: str
    data: str
    config: dict[str, Any]
    class_names: list[str]
    num_images: int
    images_per_shard: int
    epochs: int

    def __post_init__(self) -> None:
        """Complete the config of an older cache, which does not say that it is of float32."""
        if isinstance(self.config, dict):
            object.__setattr__(self, "config", {DTYPE_KEY: "float32", **self.config})

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features in the shards."""
        return DTYPES[self.config[DTYPE_KEY]]

    @property
    def shards_per_epoch(self) -> int:
        """The files of one epoch; the last may hold fewer images."""
        return -(-self.num_images // self.images_per_shard)

    def images(self, shard: int) -> list[tuple[int, int]]:
        """The images of a shard, as pairs (epoch, image)."""
        epoch, block = divmod(shard, self.shards_per_epoch)
        start = block * self.images_per_shard
        stop = min(start + self.images_per_shard, self.num_images)
        return [(epoch, image) for image in range(start, stop)]

    def missing_shards(self, folder: str | os.PathLike) -> list[int]:
        """The shards that the folder does not have, in ascending order."""
        there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        shards = range(self.epochs * self.shards_per_epoch)
        return [shard for shard in shards if shard_name(shard) not in there]

    def differences(self, other: "Index") -> list[str]:
        """Describe in what the other cache's features differ; empty if they are the same."""
        found = ["version of the format"] if self.version != other.version else []
        found += ["file of weights"] if self.weights != other.weights else []
        # What an older cache does not name was as it is by default; it may also name more.
        defaults = flat_config(get_cfg())
        keys = sorted(
            key
            for key in self.config.keys() | other.config.keys()
            if (key == DTYPE_KEY or not key.startswith(WITHOUT_INFLUENCE))
            and self.config.get(key, defaults.get(key)) != other.config.get(key, defaults.get(key))
        )
        if keys:
            more = ", ..." if len(keys) > SHOWN_KEYS else ""
            found.append(f"config ({', '.join(keys[:SHOWN_KEYS])}{more})")
        if self.class_names != other.class_names:
            found.append("list of classes")
        if (self.data, self.num_images) != (other.data, other.num_images):
            found.append("training set")
        return found


def shard_name(shard: int) -> str:
    """The file of a shard."""
    return f"shard_{shard:06d}.pt"


def expected_index(cfg: CfgNode, records: Sequence[dict], epochs: int = 1) -> Index:
    """The index of the cache that belongs to a config.

    Training options (solver, samplers, seeds, all of ``MODEL.DISALIGN`` but the type of the
    features) and keys for testing leave features as they are, and are not a part of it; nor is the
    device.

    Args:
        cfg: config of a second stage.
        records: N records of the training set, in detectron2's format.
        epochs: E.

    Raises:
        ValueError: the config is not a second stage's, pastes into images, names no weights or no
            type that features can have, or E is below 1.
        FileNotFoundError: the weights do not exist.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY or not issubclass(
        META_ARCH_REGISTRY.get(name), SecondStageRCNN
    ):
        raise ValueError(
            "RoI features are cached for a second stage, MODEL.META_ARCHITECTURE DisAlignRCNN, "
            f"RetrainedRCNN or ScaledRCNN, got {name}"
        )
    if cfg.INPUT.COPY_PASTE.PROBABILITY:
        raise ValueError(
            "RoI features are cached of images as they are, but INPUT.COPY_PASTE.PROBABILITY is "
            f"{cfg.INPUT.COPY_PASTE.PROBABILITY:g}: set it to 0"
        )
    if epochs < 1:
        raise ValueError(f"a cache has at least 1 epoch, got {epochs}")
    if cfg.MODEL.DISALIGN.ROI_FEATURE_DTYPE not in DTYPES:
        raise ValueError(
            f"{DTYPE_KEY} must be one of {', '.join(DTYPES)}, got "
            f"{cfg.MODEL.DISALIGN.ROI_FEATURE_DTYPE!r}"
        )
    config = {
        DTYPE_KEY: cfg.MODEL.DISALIGN.ROI_FEATURE_DTYPE,
        **_flattened(cfg.MODEL, "MODEL."),
        **_flattened(cfg.INPUT, "INPUT."),
        "DATASETS.TRAIN": list(cfg.DATASETS.TRAIN),
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    }
    index = Index(
        version=FORMAT_VERSION,
        weights=_file_digest(cfg.MODEL.WEIGHTS),
        data=_records_digest(records),
        # As they come back from JSON, where a tuple becomes a list.
        config=json.loads(json.dumps(config)),
        class_names=class_names(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else [],
        num_images=len(records),
        images_per_shard=IMAGES_PER_SHARD,
        epochs=epochs,
    )
    if problem := _problem(index):
        raise ValueError(f"--epochs {epochs}: {problem}")
    return index


def check_same(folder: str | os.PathLike, index: Index, expected: Index) -> None:
    """Refuse a cache that was computed from something else.

    Args:
        folder: where the cache is.
        index: its index.
        expected: what :func:`expected_index` gives for the config at hand.

    Raises:
        ValueError: the features would differ; the message says in what.
    """
    differences = index.differences(expected)
    if differences:
        raise ValueError(
            f"the RoI features in {folder} were computed with another {', '.join(differences)}: go "
            "back to that, delete the folder and make it again, or name another one"
        )


def write_index(folder: str | os.PathLike, index: Index) -> None:
    """Write ``cache.json``, atomically."""
    write_json(Path(folder) / INDEX_FILE, asdict(index))


def read_index(folder: str | os.PathLike) -> Index:
    """Read ``cache.json``.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is damaged.
    """
    path = Path(folder) / INDEX_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no cache of RoI features: it has no {INDEX_FILE}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] == 1:
            # Which did not have the names; check_same says that it is of another version.
            content["class_names"] = []
        index = Index(**{field.name: content[field.name] for field in fields(Index)})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, type(error).__name__) from None
    if problem := _problem(index):
        raise _damaged(path, problem)
    return index


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}): delete the folder and make it again")


def _problem(index: Index) -> str:
    """What of an index no cache has; the numbers are divided by, and counted up to."""
    for name in ("version", "num_images", "images_per_shard", "epochs"):
        value = getattr(index, name)
        if type(value) is not int or not 1 <= value <= LARGEST:
            return f"{name} must be an integer from 1 to {LARGEST}, got {value!r}"
    shards = index.epochs * index.shards_per_epoch
    if shards > MOST_FILES:
        return f"{index.epochs} epochs are {shards} files, more than {MOST_FILES}"
    kinds = {"weights": str, "data": str, "config": dict, "class_names": list}
    for name, kind in kinds.items():
        if not isinstance(getattr(index, name), kind):
            return f"{name} must be a {kind.__name__}, got {getattr(index, name)!r}"
    if (dtype := index.config.get(DTYPE_KEY)) not in [*DTYPES]:
        return f"{DTYPE_KEY} must be one of {', '.join(DTYPES)}, got {dtype!r}"
    return ""


def _flattened(node: CfgNode, prefix: str) -> dict[str, Any]:
    values = {}
    for name, value in node.items():
        if isinstance(value, CfgNode):
            values.update(_flattened(value, f"{prefix}{name}."))
        elif not f"{prefix}{name}".startswith(WITHOUT_INFLUENCE) and "TEST" not in name:
            values[f"{prefix}{name}"] = value
    return values


def _file_digest(path: str) -> str:
    if not path:
        raise ValueError(
            "RoI features are computed with the first stage's checkpoint: set MODEL.WEIGHTS to it"
        )
    local = PathManager.get_local_path(path)
    if not os.path.isfile(local):
        raise FileNotFoundError(
            f"the weights {path} do not exist: set MODEL.WEIGHTS to a checkpoint"
        )
    return file_sha256(local)


def _records_digest(records: Sequence[dict]) -> str:
    """SHA-256 over images, classes and boxes in order, wherever the images lie."""
    digest = hashlib.sha256()
    for record in records:
        instances = [
            [a["category_id"], a.get("iscrowd", 0), *map(float, a["bbox"])]
            for a in record.get("annotations") or ()
        ]
        name = os.path.basename(record["file_name"])
        row = [name, record.get("height"), record.get("width"), instances]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
