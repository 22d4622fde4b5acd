# SPDX-License-Identifier: Apache-2.0
"""Generated scenes as a data set for instance segmentation, written as LVIS is.

root/images/{train,val}/synthetic_{train,val}_000000.jpg
root/lvis_synthetic_{train,val}.json
root/meta.json    written last: where it is, the data set is whole

The objects of the thing classes are the instances; stuff is background. As in LVIS, the labels are
federated: of the categories that an image does not contain only a few are listed as absent
(``neg_category_ids``), and of some that it contains not all objects are annotated
(``not_exhaustive_category_ids``).

Shapes: K classes, T of them things: class c is the category with the id c - (K - T) + 1.
"""

import functools
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from longtail.data.formats.generated import (
    FORMAT_VERSION,
    LVIS_NUM_CLASSES,
    SPLITS,
    annotation_file,
    read_meta,
)
from longtail.data.formats.lvis_writer import (
    Labelled,
    count_annotations,
    instance_annotation,
    lvis_documents,
    write_document,
)
from longtail.data.synthetic.config import SceneConfig, SyntheticConfig
from longtail.data.synthetic.hued import HuedConfig, plan_hued_split
from longtail.data.synthetic.plan import plan_split, scene_generator
from longtail.data.synthetic.scene import Instance, generate_scene
from longtail.data.synthetic.shapes import SHAPES
from longtail.data.synthetic.write import drawn, remove_generated_files, write_image
from longtail.utils.io import write_json

# 60 thing categories, from 1 to 515 of 1200 training images: about a third each is rare, common
# and frequent. Areas are not planned by the law of the config, see _areas.
LVIS_CONFIG = SyntheticConfig(
    num_classes=LVIS_NUM_CLASSES,
    image_size=(192, 192),
    region_imbalance=1200,
    pixel_imbalance=1200,
    min_val_images=10,
)
# The fewest pixels that an object shows, as share of the image: 12 x 12 of 192 x 192.
MIN_OBJECT_SHARE = 1 / 256
# Objects beyond this share of an image would hide one another too often.
MAX_OBJECT_SHARE = 0.5
NEGATIVES_PER_IMAGE = 8
# Of the categories with several objects in an image, the share that is not annotated in full.
NOT_EXHAUSTIVE = 0.1


def category_names(config: SceneConfig) -> list[str]:
    """T names, in the order of the category ids."""
    return config.class_names[config.num_stuff :]


def write_lvis_dataset(
    root: str | os.PathLike,
    num_train: int,
    num_val: int,
    config: SyntheticConfig | HuedConfig | None = None,
    num_workers: int = 1,
) -> dict[str, Any]:
    """Generate a data set in LVIS's format, unless ``root`` already holds this very one.

    In how many images a category is, follows ``config``. Objects of all categories are equally
    large, so that rare ones are hard for their rarity alone.

    Args:
        root: the data set's folder; made if missing.
        num_train: training images; of a ``SyntheticConfig`` at least ``region_imbalance``.
        num_val: validation images, at least ``config.min_val_images``.
        config: the data set; ``LVIS_CONFIG`` if None. Its ``pixel_imbalance`` plays no part. A
            ``HuedConfig`` for several hundred categories.
        num_workers: processes; up to 1 means the calling one. With more, a script needs the usual
            ``if __name__ == "__main__"`` guard.

    Returns:
        The content of ``meta.json``: ``format_version``, ``kind``, ``config``, ``num_images`` (per
        split), ``categories`` (T names), ``frequency`` (T letters), ``image_count`` and
        ``instance_count`` (per split, T numbers as annotated).

    Raises:
        ValueError: as :func:`longtail.data.synthetic.write_dataset`, or
            :meth:`.hued.HuedConfig.image_counts`.
    """
    config = config or LVIS_CONFIG
    root = Path(root)
    num_images = {"train": num_train, "val": num_val}
    request = {
        "format_version": FORMAT_VERSION,
        "kind": "lvis",
        "config": config.to_dict(),
        "num_images": num_images,
        "categories": category_names(config),
    }
    meta = read_meta(root)
    if meta is not None and {key: meta.get(key) for key in request} == request:
        return meta
    # All errors in the arguments come before anything on the disk is touched.
    plan = plan_hued_split if isinstance(config, HuedConfig) else plan_split
    plans = {split: plan(config, num_images[split], split) for split in SPLITS}
    folders = [root / "images" / split for split in SPLITS]
    remove_generated_files(root, folders, "lvis")
    for split in SPLITS:
        annotation_file(root, split).unlink(missing_ok=True)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    labelled = _write_images(root, plans, config, num_workers)
    documents = lvis_documents(request["categories"], labelled)
    for split, document in documents.items():
        write_document(annotation_file(root, split), document)
    request["frequency"] = [item["frequency"] for item in documents["train"]["categories"]]
    counts = {s: count_annotations(labelled[s], len(request["categories"])) for s in SPLITS}
    for index, kind in enumerate(("image_count", "instance_count")):
        request[kind] = {split: counts[split][index].tolist() for split in SPLITS}
    write_json(root / "meta.json", request)
    return request


def _write_images(
    root: Path, plans: dict[str, np.ndarray], config: SceneConfig, num_workers: int
) -> dict[str, list[Labelled]]:
    jobs = [(split, index, areas) for split in SPLITS for index, areas in enumerate(plans[split])]
    write = functools.partial(_write_image, root, config)
    results = tqdm(drawn(write, jobs, num_workers), "Generating scenes", len(jobs), unit="image")
    labelled: dict[str, list[Labelled]] = {split: [] for split in SPLITS}
    for (split, _, _), result in zip(jobs, results, strict=True):
        labelled[split].append(result)
    return labelled


def _write_image(root: Path, config: SceneConfig, job: tuple[str, int, np.ndarray]) -> Labelled:
    """Write one image; returns its entry and its annotations."""
    split, index, plan = job
    # The scene has its own random numbers; these are for what is particular to this format.
    rng = scene_generator(config, split, index).spawn(1)[0]
    height, width = config.image_size
    scene = generate_scene(
        config,
        _areas(config, plan, rng),
        scene_generator(config, split, index),
        min_object=round(MIN_OBJECT_SHARE * height * width),
    )
    file_name = f"synthetic_{split}_{index:06d}.jpg"
    bgr = scene.image[..., ::-1]
    write_image(root / "images" / split / file_name, bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return _federated_labels(
        {
            "file_name": file_name,
            # Loaders of LVIS v1 find the image by the last two parts of this.
            "coco_url": f"{split}/{file_name}",
            "height": height,
            "width": width,
        },
        scene.instances,
        config,
        rng,
    )


def _areas(config: SceneConfig, plan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(K,) shares for :func:`~longtail.data.synthetic.generate_scene`.

    There are one or a few objects of each planned thing.
    """
    areas = plan.copy()
    things = np.flatnonzero(plan[config.num_stuff :]) + config.num_stuff
    for class_id in things:
        areas[class_id] = SHAPES[config.thing_parts(class_id)[0]].max_area * rng.uniform(0.25, 1)
    areas[things] *= min(1, MAX_OBJECT_SHARE / max(areas[things].sum(), 1e-12))
    return areas


def _federated_labels(
    image: dict[str, Any],
    instances: list[Instance],
    config: SceneConfig,
    rng: np.random.Generator,
) -> Labelled:
    num_categories = config.num_classes - config.num_stuff
    ids = np.array([item.class_id - config.num_stuff + 1 for item in instances], dtype=int)
    annotated = np.ones(len(ids), dtype=bool)
    not_exhaustive = []
    for category_id in np.unique(ids):
        members = np.flatnonzero(ids == category_id)
        if len(members) > 1 and rng.random() < NOT_EXHAUSTIVE:
            # At least one is left out, and at least one stays: the image count holds.
            left_out = rng.permutation(members)[: rng.integers(1, len(members))]
            annotated[left_out] = False
            not_exhaustive.append(int(category_id))
    absent = np.setdiff1d(np.arange(1, num_categories + 1), ids)
    negatives = sorted(rng.permutation(absent)[:NEGATIVES_PER_IMAGE].tolist())
    annotations = [
        instance_annotation(instances[i].mask, int(ids[i])) for i in np.flatnonzero(annotated)
    ]
    return {
        **image,
        "neg_category_ids": negatives,
        "not_exhaustive_category_ids": not_exhaustive,
    }, annotations
