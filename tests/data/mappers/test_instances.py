# SPDX-License-Identifier: Apache-2.0
"""Detection: detectron2's mapper, behind the checks of the one reader."""

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from longtail.data.mappers.instances import InstanceDatasetMapper
from longtail.engine.training.data_sets import build_mapper
from tests.data.pngs import PALETTE, huge_png, name_of, orientation_chunk, png


@pytest.fixture
def mapper():
    return InstanceDatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="RGB",
        use_instance_mask=False,
        recompute_boxes=False,
    )


def record(path, content, height, width, **more):
    path.write_bytes(content)
    item = {"bbox": [0, 0, 2, 1], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    sizes = {"height": height, "width": width}
    return {"file_name": str(path), **sizes, "annotations": [item], **more}


def test_an_image_as_it_is_shown(tmp_path, mapper):
    turned = png([[1, 2, 3], [4, 5, 6]], before=orientation_chunk(6))
    mapped = mapper(record(tmp_path / "a.png", turned, 3, 2))
    assert mapped["image"][0].tolist() == [[4, 1], [5, 2], [6, 3]]
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[0, 0, 2, 1]]


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (
            png([[1, 2, 3], [4, 5, 6]], before=orientation_chunk(6)),
            (2, 3),
            "has size 2x3, but its annotations are of one of 3x2, as it is before its EXIF",
        ),
        (
            png([[1, 2, 3], [4, 5, 6]]),
            (2, 4),
            "has size 3x2, but its annotations are of one of 4x2: take images and annotations",
        ),
        (png([[1, 2, 3]], 16), (1, 3), "has mode I;16, .*: convert it to 8 bits"),
        (huge_png(14000, 14000), (14000, 14000), "has 196 megapixels"),
        (b"no image", (1, 3), "cannot be read as an image"),
    ],
    ids=name_of,
)
def test_images_that_are_refused_are_named(tmp_path, mapper, content, size, message):
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a\.png {message}"):
        mapper(record(tmp_path / "a.png", content, *size))


def test_a_turn_that_the_size_does_not_show_is_said(tmp_path, mapper, caplog):
    mapper(record(tmp_path / "a.png", png([[1, 2], [4, 5]], before=orientation_chunk(6)), 2, 2))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path}/a.png is shown turned or flipped")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_an_image_that_is_cut_short_is_named(tmp_path, mapper, share):
    """Behind its header, where detectron2's own mapper meets it."""
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image .*truncated"):
        mapper(record(path, content[: int(len(content) * share)], 40, 50))


def test_label_maps_that_detectron2_would_change(tmp_path, mapper):
    image, labels = png([[1, 2, 3]]), tmp_path / "labels.png"
    panoptic = {"sem_seg_file_name": str(labels)}
    labels.write_bytes(png([[0, 1, 2]]))
    mapped = mapper(record(tmp_path / "a.png", image, 1, 3, **panoptic))
    assert mapped["sem_seg"].tolist() == [[0, 1, 2]]
    for content in (png([[0, 1, 2]], 2), png([[0, 1, 2]], 8, PALETTE)):
        labels.write_bytes(content)
        with pytest.raises(ValueError, match=r"labels\.png is a PNG of mode [LP] with [28] bits"):
            mapper(record(tmp_path / "a.png", image, 1, 3, **panoptic))


def test_detectors_are_given_this_mapper(tmp_path):
    from tests.tiny import tiny_config

    assert type(build_mapper(tiny_config(tmp_path), "coco_2017_val", True)) is InstanceDatasetMapper
