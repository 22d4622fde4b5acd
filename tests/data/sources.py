# SPDX-License-Identifier: Apache-2.0
"""Small sources in the official archives' layouts, and the preparation tool in this process."""

import numpy as np
import scipy.io
from PIL import Image

from longtail.commands import prepare


def save_image(path, size=(3, 2)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)


def save_label(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        scipy.io.savemat(path, {"S": np.array(values), "captions": "a photo"})
    else:
        Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


def read_label(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        assert image.format == "PNG"
        return np.asarray(image).tolist()


def make_camvid(folder, num_images=3, splits=("train", "val")):
    for split in splits:
        for i in range(num_images):
            save_image(folder / split / f"{i}.png")
            save_label(folder / f"{split}annot" / f"{i}.png", [[0, 1, 11], [10, i, 11]])


def files_under(folder):
    return {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}


def run_tool(*arguments):
    """The tool's exit code in this process."""
    try:
        prepare.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code
    return 0
