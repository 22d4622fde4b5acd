# SPDX-License-Identifier: Apache-2.0
"""CamVid's label maps as objects in LVIS's format: one object for each connected region.

An approximation: objects of a class that touch become one, an object that something divides
becomes several. Labels are exhaustive, so that a category without a pixel in an image is known to
be absent from it.

H, W: height and width of an image.
"""

import os

import cv2
import numpy as np
from tqdm import tqdm

from longtail.data.datasets import camvid
from longtail.data.datasets.files import IMAGE_SUFFIXES, files_by_stem
from longtail.data.datasets.lvis import CAMVID_OBJECTS, camvid_annotation_file
from longtail.data.formats.headers import check_label_size, read_header
from longtail.data.formats.images import read_label_map
from longtail.data.formats.lvis_writer import (
    Labelled,
    instance_annotation,
    lvis_documents,
    write_document,
)
from longtail.data.prepare.runner import Report

SPLITS = ("train", "val")
# Smaller regions are slivers along the borders of the labels, and nothing one could detect.
MIN_AREA = 16


def write_camvid_instances(root: str) -> Report:
    """Write ``camvid/lvis_camvid_{train,val}.json`` from the prepared label maps.

    Args:
        root: the folder that holds the data sets.

    Returns:
        A report of two files written.

    Raises:
        FileNotFoundError: the label maps are not prepared.
        ValueError: a label map is damaged, or has no image.
    """
    labelled = {split: _split_objects(root, split) for split in SPLITS}
    for split, document in lvis_documents(CAMVID_OBJECTS, labelled).items():
        write_document(camvid_annotation_file(root, split), document)
    return Report(written=len(SPLITS))


def label_objects(labels: np.ndarray) -> tuple[list[tuple[int, np.ndarray]], list[int]]:
    """Find the objects of a label map.

    Args:
        labels: (H, W) uint8 of class indices of CamVid, and 255.

    Returns:
        ``(category id from 1, (H, W) bool mask)`` of each 8-connected region of at least
        ``MIN_AREA`` pixels, and the ids of the categories without any pixel.
    """
    objects, absent = [], []
    for category_id, name in enumerate(CAMVID_OBJECTS, start=1):
        mask = (labels == camvid.CLASSES.index(name)).astype(np.uint8)
        count, regions, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        if count == 1:
            absent.append(category_id)
        for region in range(1, count):
            if stats[region, cv2.CC_STAT_AREA] >= MIN_AREA:
                objects.append((category_id, regions == region))
    return objects, absent


def _split_objects(root: str, split: str) -> list[Labelled]:
    image_folder, label_folder = camvid.image_and_label_folders(root, split)
    for folder in (image_folder, label_folder):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{folder} is missing: run 'longtail prepare camvid' first")
    images = files_by_stem(image_folder, IMAGE_SUFFIXES)
    labelled = []
    for stem, path in tqdm(files_by_stem(label_folder, (".png",)).items(), f"camvid {split}"):
        if stem not in images:
            raise ValueError(f"{path} has no image in {image_folder}: prepare camvid again")
        labels = read_label_map(path)
        header = read_header(images[stem])
        check_label_size(path, labels.shape, images[stem], header, "prepare camvid again")
        objects, absent = label_objects(labels)
        file_name = os.path.basename(images[stem])
        image = {
            "file_name": file_name,
            "coco_url": f"{split}/{file_name}",
            "height": labels.shape[0],
            "width": labels.shape[1],
            "neg_category_ids": absent,
            "not_exhaustive_category_ids": [],
        }
        labelled.append((image, [instance_annotation(mask, number) for number, mask in objects]))
    return labelled
