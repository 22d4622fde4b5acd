# SPDX-License-Identifier: Apache-2.0
"""Small lists for image classification; the images are empty files, which nothing here opens."""

from longtail.data.formats.image_list import image_list_text


def make_images(image_root, files):
    for file in files:
        path = image_root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_list(path, pairs):
    """Write ``(file, label)`` pairs as a list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(image_list_text(*zip(*pairs, strict=True)))
