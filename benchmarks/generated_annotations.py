# SPDX-License-Identifier: Apache-2.0
"""Annotation files in LVIS's format of any size, quickly: for ``stage2_start.py``, ``scale.py``.

Classes follow a long tail, 1 / rank; every image has as many annotations. Polygons are points on
circles; without corners there are boxes alone.
"""

from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 480, 640
# Annotations that are drawn and written together.
PART = 10_000


def write_annotations(
    path: Path, *, images: int, instances: int, classes: int, corners: int = 0
) -> int:
    """Write a file.

    Args:
        path: the file.
        images: number of images.
        instances: annotations of each.
        classes: K categories.
        corners: of a polygon; 0 for none.

    Returns:
        The size of the file in bytes.
    """
    generator = np.random.default_rng(0)
    share = 1 / np.arange(1, classes + 1)
    share /= share.sum()
    angles = np.linspace(0, 2 * np.pi, max(corners, 1), endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).ravel()
    total = images * instances
    with open(path, "w", encoding="utf-8") as file:
        names = (f'{{"id": {c + 1}, "name": "category {c}"}}' for c in range(classes))
        file.write('{"categories": [' + ", ".join(names) + '], "images": [')
        rows = (
            f'{{"id": {n}, "height": {HEIGHT}, "width": {WIDTH}, "file_name": "{n:012d}.jpg", '
            '"neg_category_ids": [], "not_exhaustive_category_ids": []}'
            for n in range(1, images + 1)
        )
        file.write(", ".join(rows) + '], "annotations": [')
        for start in range(0, total, PART):
            stop = min(start + PART, total)
            chosen = generator.choice(classes, stop - start, p=share) + 1
            corner = generator.integers(0, 400, (stop - start, 2)).tolist()
            rows = []
            for number, category, (x, y) in zip(
                range(start, stop), chosen.tolist(), corner, strict=True
            ):
                shape = ""
                if corners:
                    points = (40.0 + 39 * circle + np.tile([x, y], corners)).round(2).tolist()
                    shape = f', "segmentation": [{points}]'
                rows.append(
                    f'{{"id": {number + 1}, "image_id": {number // instances + 1}, "category_id": '
                    f'{category}, "bbox": [{x}, {y}, 80, 80], "area": 4800{shape}}}'
                )
            file.write(", " * bool(start) + ", ".join(rows))
        file.write("]}")
    return path.stat().st_size
