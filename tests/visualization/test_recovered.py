# SPDX-License-Identifier: Apache-2.0
"""Which images show that pixels of some classes were recovered, counted by hand."""

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.data.datasets import register_sem_seg
from longtail.visualization.recovered import by_recovered, enlarged_picture, recovered_pixels
from longtail.visualization.tasks import build_task


def test_by_hand():
    """Classes 1 and 2 count: of 1 two pixels are gained and one is lost, of 2 one is lost."""
    target = np.array([[1, 1, 1, 1], [2, 2, 0, 0]])
    before = np.array([[0, 0, 1, 1], [2, 0, 1, 0]])
    after = np.array([[1, 1, 0, 1], [0, 0, 0, 0]])
    assert recovered_pixels(target, before, after, [1, 2]) == 2 - 1 - 1
    assert recovered_pixels(target, before, after, [1]) == 1
    assert recovered_pixels(target, before, after, [2]) == -1
    # Pixels of 0 that were taken for 1 are right now.
    assert recovered_pixels(target, before, after, [0]) == 1


def test_the_images_with_most_come_first_and_are_enlarged(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(3):
        Image.new("RGB", (10, 8)).save(tmp_path / f"images/{index}.png")
        Image.new("L", (10, 8), 1).save(tmp_path / f"labels/{index}.png")
    name = "recovered_toy"
    register_sem_seg(name, tmp_path / "images", tmp_path / "labels", ["a", "b"])
    try:
        records, task = DatasetCatalog.get(name), build_task(name)

        def before(record):
            return np.zeros((8, 10), int)

        def after(record):
            labels = np.zeros((8, 10), int)
            # Image 0 has 4 pixels right, 1 has 9 and 2 none.
            side = {"0": 2, "1": 3, "2": 0}[record["file_name"][-5]]
            labels[:side, :side] = 1
            return labels

        found = by_recovered(records, task, before, after, [1])
        assert [(pixels, record["file_name"][-5]) for pixels, record in found] == [
            *((9, "1"), (4, "0"), (0, "2"))
        ]
        picture = enlarged_picture(records[1], task, {"before": before, "after": after})
        # 220 // 8 times the 10 x 8 pixels, four columns.
        assert picture.shape[0] > 27 * 8 and picture.shape[1] > 4 * 27 * 10
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
