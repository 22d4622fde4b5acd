# SPDX-License-Identifier: Apache-2.0
"""LVIS needs no conversion: its annotation files and COCO's images are used as they come.

What can be wrong is that a file is absent, cut short, or in another place.
"""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.datasets.lvis import register_lvis
from longtail.data.prepare.runner import Report

# The folders of COCO that each split takes images from.
SPLITS = {
    "v1_train": ("train2017",),
    "v1_val": ("train2017", "val2017"),
    "v0.5_train": ("train2017",),
    "v0.5_val": ("val2017",),
    "v1_test_dev": ("test2017",),
    "v1_test_challenge": ("test2017",),
    "v0.5_test": ("test2017",),
}
DEFAULT_SPLITS = tuple(split for split in SPLITS if "test" not in split)
# So many images of a split, evenly spread, are looked for.
SAMPLE = 200


def check_lvis(root: str, splits: list[str] | None = None) -> Report:
    """Look for what the registered LVIS data sets need; nothing is written.

    Each annotation file is read as for training, which for ``v1_train`` takes about a minute and
    several GB. A sample of its images is looked for.

    Args:
        root: the folder that holds the data sets.
        splits: of ``SPLITS``, those for training and validation if not given.

    Returns:
        ``skipped``: annotation files that are as they should be; ``problems``: what is missing
        or damaged, and where it belongs.

    Raises:
        ValueError: there is no such split.
    """
    unknown = [name for name in splits or () if name not in SPLITS]
    if unknown:
        raise ValueError(f"lvis has no split {unknown[0]!r}, only {', '.join(SPLITS)}")
    register_lvis(root)
    report = Report()
    problems: dict[str, None] = {}
    for split in splits or DEFAULT_SPLITS:
        found = [*_missing_folders(split, root), *_file_problems(split)]
        # Splits share their image folders.
        problems.update(dict.fromkeys(found))
        report.skipped += not found
    report.problems = list(problems)
    return report


def _missing_folders(split: str, root: str) -> list[str]:
    folders = {name: os.path.join(root, "coco", name) for name in SPLITS[split]}
    return [
        f"{folder}: missing; unpack COCO's {name}.zip there"
        for name, folder in folders.items()
        if not os.path.isdir(folder)
    ]


def _file_problems(split: str) -> list[str]:
    """Find faults of the annotation file, and of the images that it names."""
    name = f"lvis_{split}"
    json_file = MetadataCatalog.get(name).json_file
    again = "take it again from lvisdataset.org"
    if not os.path.isfile(json_file):
        return [
            f"{json_file}: missing; unpack {os.path.basename(json_file)}.zip of lvisdataset.org "
            f"there, or name the splits that you need with --splits, without {split}"
        ]
    try:
        records = DatasetCatalog.get(name)
    except (ValueError, OSError) as error:
        return [f"{error}; {again}"]
    if not records:
        return [f"{json_file}: no images; {again}"]
    if "test" not in split and "annotations" not in records[0]:
        return [f"{json_file}: no annotations; {again}"]
    files = [record["file_name"] for record in records[:: max(1, len(records) // SAMPLE)]]
    missing = [file for file in files if not os.path.isfile(file)]
    folders = sorted({os.path.dirname(file) for file in missing})
    return [
        f"{folder}: lacks images of {name}, such as "
        f"{next(os.path.basename(file) for file in missing if os.path.dirname(file) == folder)}; "
        f"unpack COCO's {os.path.basename(folder)}.zip again"
        for folder in folders
        if os.path.isdir(folder)
    ]
