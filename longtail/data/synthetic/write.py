# SPDX-License-Identifier: Apache-2.0
"""Write generated scenes to disk in the layout of ADE20K.

root/images/{training,validation}/synthetic_{train,val}_000000.jpg
root/annotations_detectron2/{training,validation}/synthetic_{train,val}_000000.png
root/meta.json    written last: where it is, the data set is whole
"""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from longtail.data.formats.generated import FORMAT_VERSION, SPLITS, read_meta, split_folders
from longtail.data.synthetic.config import SyntheticConfig
from longtail.data.synthetic.plan import plan_split, scene_generator
from longtail.data.synthetic.scene import generate_scene
from longtail.utils.io import atomic_write, write_json
from longtail.utils.processes import map_jobs

_OWN_FILE = re.compile(r"synthetic_(train|val|test)_\d+\.(jpg|png)|\..*\.tmp")


def write_dataset(
    root: str | os.PathLike,
    num_train: int,
    num_val: int,
    config: SyntheticConfig | None = None,
    num_workers: int = 1,
) -> dict[str, Any]:
    """Generate a data set, unless ``root`` already holds this very one.

    The files depend on the arguments alone, not on ``num_workers``. Another generated data set in
    ``root`` is removed first, also one whose generation was interrupted.

    Args:
        root: the data set's folder; made if missing.
        num_train: training images, at least ``config.region_imbalance``.
        num_val: validation images, at least ``config.min_val_images``.
        config: the data set; the default config if None.
        num_workers: processes; up to 1 means the calling one. With more, a script needs the usual
            ``if __name__ == "__main__"`` guard.

    Returns:
        The content of ``meta.json``: ``format_version``, ``config``, ``num_images`` (per split),
        ``classes`` (K names), ``class_groups`` (head, body, tail), ``image_count`` and
        ``pixel_count`` (per split, K numbers as measured, without ignored pixels).

    Raises:
        ValueError: too few images for the config, no room for the objects, or ``root`` contains
            files that were not generated (nothing is removed then).
    """
    config = config or SyntheticConfig()
    root = Path(root)
    num_images = {"train": num_train, "val": num_val}
    meta = read_meta(root)
    request = _describe(config, num_images)
    if meta is not None and {key: meta.get(key) for key in request} == request:
        return meta
    # All errors in the arguments come before anything on the disk is touched.
    plans = {split: plan_split(config, num_images[split], split) for split in SPLITS}
    remove_generated_files(root, _folders(root), "sem_seg")
    for folder in _folders(root):
        folder.mkdir(parents=True, exist_ok=True)
    counts = _write_splits(root, plans, config, num_workers)
    for kind, index in (("image_count", 0), ("pixel_count", 1)):
        request[kind] = {split: counts[split][index].tolist() for split in SPLITS}
    write_json(root / "meta.json", request)
    return request


def _describe(config: SyntheticConfig, num_images: dict[str, int]) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "config": config.to_dict(),
        "num_images": num_images,
        "classes": config.class_names,
        "class_groups": config.class_groups,
    }


def _folders(root: Path) -> list[Path]:
    return [folder for split in SPLITS for folder in split_folders(root, split)]


def remove_generated_files(root: Path, folders: Iterable[Path], kind: str) -> None:
    """Remove an earlier data set, ``meta.json`` first.

    Args:
        root: the data set's folder.
        folders: its folders of images and label maps.
        kind: ``"sem_seg"``, ``"lvis"`` or ``"classification"``.

    Raises:
        ValueError: there is a file that was not generated, or a data set of the other kind;
            everything is left as it is.
    """
    meta = read_meta(root)
    if meta is not None and meta.get("kind", "sem_seg") != kind:
        raise ValueError(f"{root} holds generated data of another kind: choose another folder")
    files = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    for path in files:
        if not _OWN_FILE.fullmatch(path.name):
            raise ValueError(
                f"{path} was not generated: nothing is removed or written in {root}; choose an "
                "empty folder for the generated data set"
            )
    (root / "meta.json").unlink(missing_ok=True)
    for path in files:
        path.unlink()


def _write_splits(
    root: Path, plans: dict[str, np.ndarray], config: SyntheticConfig, num_workers: int
) -> dict[str, np.ndarray]:
    """Write all images; returns (2, K) int64 image and pixel counts for each split."""
    jobs = [(split, index, areas) for split in SPLITS for index, areas in enumerate(plans[split])]
    counts = {split: np.zeros((2, config.num_classes), dtype=np.int64) for split in SPLITS}
    write = functools.partial(_write_scene, root, config)
    results = tqdm(drawn(write, jobs, num_workers), "Generating scenes", len(jobs), unit="image")
    for (split, _, _), pixels in zip(jobs, results, strict=True):
        counts[split] += np.stack([pixels > 0, pixels])
    return counts


def drawn(function: Callable, jobs: list, num_workers: int) -> Iterator[Any]:
    """Yield ``function(job)`` in order; in each of several processes OpenCV has one thread."""
    return map_jobs(function, jobs, num_workers, initializer=cv2.setNumThreads, arguments=(0,))


def _write_scene(
    root: Path, config: SyntheticConfig, job: tuple[str, int, Iterable[float]]
) -> np.ndarray:
    """Write one image and its labels; returns (K,) labelled pixels a class."""
    split, index, areas = job
    scene = generate_scene(config, areas, scene_generator(config, split, index))
    name = f"synthetic_{split}_{index:06d}"
    images, labels = split_folders(root, split)
    bgr = scene.image[..., ::-1]
    write_image(images / f"{name}.jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
    write_image(labels / f"{name}.png", scene.sem_seg, [])
    return np.bincount(scene.sem_seg.ravel(), minlength=256)[: config.num_classes]


def write_image(path: Path, pixels: np.ndarray, parameters: list[int]) -> None:
    """Write an image atomically: (H, W) or (H, W, 3) uint8, blue first; format by the suffix."""
    _, encoded = cv2.imencode(path.suffix, pixels, parameters)
    with atomic_write(path, "wb") as file:
        file.write(encoded.tobytes())
