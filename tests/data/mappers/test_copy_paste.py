# SPDX-License-Identifier: Apache-2.0
"""Copy-paste of instances and regions against plain loops, and how often classes are pasted.

A count of n draws is binomial: within 4.5 standard deviations with probability 1 - 7e-6.
"""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image

from longtail.config import get_cfg
from longtail.data.mappers import InstanceDatasetMapper, SemSegDatasetMapper, with_copy_paste
from longtail.data.mappers.copy_paste import (
    InstanceCopyPaste,
    RegionCopyPaste,
    paste_instances,
)
from longtail.data.samplers import EpochSampler, TrainingSampler
from longtail.data.samplers.training import SAMPLER_REGISTRY
from longtail.engine.training.loader import TrainingLoader
from longtail.utils.randomness import seeded
from tests.messages import raises_naming

PASTE = "INPUT.COPY_PASTE"


def instances(masks, classes, loose=0):
    """Instances of masks (n, H, W), with boxes that are so many pixels too large to the left."""
    masks = BitMasks(torch.as_tensor(np.stack(masks), dtype=torch.bool))
    boxes = masks.get_bounding_boxes().tensor - torch.tensor([loose, 0.0, 0.0, 0.0])
    fields = {"gt_boxes": Boxes(boxes), "gt_classes": torch.tensor(classes), "gt_masks": masks}
    return Instances(tuple(masks.tensor.shape[1:]), **fields)


def rectangle(size, top, left, bottom, right):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_what_is_covered_is_taken_from_the_others():
    """By hand: one instance loses its left half, one all, one nothing; the image shows it."""
    size = (6, 8)
    shapes = [(0, 0, 2, 4), (4, 0, 6, 2), (4, 6, 6, 8)]
    own = instances([rectangle(size, *shape) for shape in shapes], [3, 4, 5], loose=1)
    target = {"image": torch.full((3, *size), 7, dtype=torch.uint8), "instances": own, "height": 6}
    source = torch.arange(3 * 6 * 3, dtype=torch.uint8).reshape(3, 6, 3) + 100
    # One covers columns 0 and 1 of all rows; the other is outside of the target.
    masks = [rectangle((6, 3), 0, 1, 6, 3), rectangle((6, 3), 0, 0, 6, 1)]
    result = paste_instances(target, source, instances(masks, [1, 2]), top=0, left=-1)
    found = result["instances"]
    assert found.gt_classes.tolist() == [3, 5, 1]
    assert found.gt_boxes.tensor.tolist() == [[2, 0, 4, 2], [5, 4, 8, 6], [0, 0, 2, 6]]
    expected = [rectangle(size, 0, 2, 2, 4), rectangle(size, *shapes[2]), np.zeros(size, bool)]
    expected[2][:, :2] = True
    assert torch.equal(found.gt_masks.tensor, torch.as_tensor(np.stack(expected)))
    assert torch.equal(result["image"][:, :, :2], source[:, :, 1:])
    assert (result["image"][:, :, 2:] == 7).all() and result["height"] == 6
    # Nothing is changed in place.
    assert (target["image"] == 7).all() and len(target["instances"]) == 3


def test_masks_stay_disjoint_and_boxes_tight_wherever_it_is_pasted():
    """Of random masks, against a map of who was painted last."""
    generator = np.random.default_rng(0)
    for _ in range(40):
        size, other = (generator.integers(3, 9, 2).tolist() for _ in range(2))
        maps = [generator.integers(0, 4, side) for side in (size, other)]
        own, objects = (
            instances(
                [m == k for k in (1, 2, 3) if (m == k).any()],
                [k for k in (1, 2, 3) if (m == k).any()],
            )
            for m in maps
        )
        top, left = generator.integers(-4, 5, 2).tolist()
        painted = maps[0].copy()
        for y, x in itertools.product(*map(range, other)):
            inside = 0 <= y + top < size[0] and 0 <= x + left < size[1]
            if inside and maps[1][y, x]:
                painted[y + top, x + left] = maps[1][y, x] + 10
        target = {"image": torch.zeros(3, *size, dtype=torch.uint8), "instances": own}
        source = torch.full((3, *other), 9, dtype=torch.uint8)
        result = paste_instances(target, source, objects, top, left)
        found = result["instances"]
        present = [k for k in (1, 2, 3, 11, 12, 13) if (painted == k).any()]
        assert found.gt_classes.tolist() == [k % 10 for k in present]
        for mask, box, k in zip(found.gt_masks.tensor, found.gt_boxes.tensor, present, strict=True):
            assert np.array_equal(mask.numpy(), painted == k)
            y, x = np.nonzero(painted == k)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert np.array_equal(result["image"][0].numpy() == 9, painted > 10)


def test_into_an_image_without_instances():
    empty = Instances((4, 4), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())
    target = {"image": torch.zeros(3, 4, 4, dtype=torch.uint8), "instances": empty}
    objects = instances([rectangle((2, 2), 0, 0, 1, 2)], [6])
    found = paste_instances(target, torch.ones(3, 2, 2).byte(), objects, 1, 2)["instances"]
    assert found.gt_classes.tolist() == [6] and found.gt_boxes.tensor.tolist() == [[2, 1, 4, 2]]


def test_how_often_instances_of_a_class_are_pasted():
    """From image i with probability p s_i, and then k instances, uniform in 1..n_i.

    Image 1 has three instances of class 1, image 2 one of class 2, drawn at 1 : 3.
    """
    size = (8, 8)

    mapped = []
    for number, category in ((1, 0), (3, 1), (1, 2)):
        masks = np.stack([rectangle(size, row, 0, row + 1, 1) for row in range(number)])
        found = instances(masks, [category] * number)
        mapped.append({"image": torch.zeros(3, *size, dtype=torch.uint8), "instances": found})

    def mapper(record):
        return mapped[record["index"]]

    others = [{"index": 1}, {"index": 2}]
    shares = torch.tensor([0.25, 0.75], dtype=torch.float64)
    paste = InstanceCopyPaste(mapper, others, shares, 0.5)
    draws, numbers, images = 600, Counter(), Counter()
    with seeded(3):
        for _ in range(draws):
            classes = paste({"index": 0})["instances"].gt_classes.tolist()
            numbers[classes.count(1)] += 1
            images.update({*classes})
    for category, p in ((1, 0.5 * 0.25), (2, 0.5 * 0.75)):
        assert abs(images[category] - draws * p) < 4.5 * math.sqrt(draws * p * (1 - p))
    for k in (1, 2, 3):
        p = 0.5 * 0.25 / 3
        assert abs(numbers[k] - draws * p) < 4.5 * math.sqrt(draws * p * (1 - p))


def save(folder, name, labels, color):
    folder.mkdir(exist_ok=True)
    files = folder / f"{name}.png", folder / f"{name}_labels.png"
    Image.fromarray(np.full((*labels.shape, 3), color, np.uint8)).save(files[0])
    Image.fromarray(labels.astype(np.uint8)).save(files[1])
    return {"file_name": str(files[0]), "sem_seg_file_name": str(files[1])}


# Pixels of classes 0, 1, 2: 138, 3 and 2 of 143; one is ignored.
SPOTS = {0: [], 1: [(2, 3), (2, 4), (5, 5)], 2: [(0, 7)], 3: [(3, 0), (0, 0)]}
LABEL_OF = {1: 1, 2: 2, 3: 2}


@pytest.fixture
def regions(register, tmp_path):
    records = []
    for i, spots in SPOTS.items():
        labels = np.zeros((6, 8), int)
        for spot in spots:
            labels[spot] = LABEL_OF[i]
        records.append(save(tmp_path / "images", str(i), labels, 50 * i))
    name = register(
        "toy_regions",
        records,
        stuff_classes=["a", "b", "c"],
        ignore_label=255,
        evaluator_type="sem_seg",
    )
    return name, records


def config(name, probability=1.0, sampler="ClassBalancedTrainingSampler"):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (name,)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.INPUT.COPY_PASTE.PROBABILITY = probability
    cfg.INPUT.COPY_PASTE.SAMPLER = sampler
    return cfg


def plain_mapper():
    options = {"image_format": "RGB", "num_classes": 3}
    return SemSegDatasetMapper(is_train=True, augmentations=[], **options)


def test_a_region_comes_whole_with_its_label_and_its_pixels(regions):
    """Into image 0, which is of class 0 alone: the classes come as they are drawn."""
    name, records = regions
    mapper = with_copy_paste(config(name, 0.8), plain_mapper(), records)
    draws, counts = 500, Counter()
    with seeded(1):
        for _ in range(draws):
            mapped = mapper(records[0])
            labels, image = mapped["sem_seg"].numpy(), mapped["image"].numpy()
            pasted = labels > 0
            source = int(image.max()) // 50
            # Class 0 of any image, black or not, fills the image but for its spots.
            if not pasted.any():
                counts["nothing or class 0"] += 1
                continue
            assert labels[pasted].tolist() == [LABEL_OF[source]] * len(SPOTS[source])
            assert (image[:, pasted] == 50 * source).all() and not image[:, ~pasted].any()
            y, x = np.nonzero(pasted)
            shape = np.array(sorted(SPOTS[source])) - np.min(SPOTS[source], axis=0)
            assert np.array_equal(np.stack([y - y.min(), x - x.min()], 1), shape)
            counts[source] += 1
    # A class is drawn with 1/3, then an image: class 1 is in one, class 2 in two.
    for source, p in ((1, 0.8 / 3), (2, 0.8 / 6), (3, 0.8 / 6)):
        assert abs(counts[source] - draws * p) < 4.5 * math.sqrt(draws * p * (1 - p)), source


def test_a_region_that_is_larger_than_the_image_covers_it(regions):
    pairs = (torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0]).double())
    paste = RegionCopyPaste(regions[1], pairs, 1.0)
    image, labels = np.zeros((2, 3, 3), np.uint8), np.full((2, 3), 2, np.uint8)
    with seeded(0):
        pasted, classes = paste(image, labels, plain_mapper()._read_pair)
    assert {*np.unique(classes)} <= {0, 2} and (classes == 0).sum() >= 3
    assert (pasted[classes == 0] == 50).all() and not image.any() and (labels == 2).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_positions_decide_and_not_workers_or_restarts(regions, num_workers):
    name, records = regions

    def loader(workers):
        mapper = with_copy_paste(config(name, 0.7), plain_mapper(), records)
        sampler = TrainingSampler(len(records), seed=4)
        return TrainingLoader(records, mapper, sampler, batch_size=2, num_workers=workers)

    def labels(batches):
        return [[mapped["sem_seg"].tolist() for mapped in batch] for batch in batches]

    whole = labels(itertools.islice(loader(0), 8))
    first, resumed = loader(num_workers), loader(num_workers)
    assert labels(itertools.islice(first, 5)) == whole[:5]
    resumed.load_state_dict(first.state_dict())
    assert labels(itertools.islice(resumed, 3)) == whole[5:]
    assert any(value for batch in whole for image in batch for row in image for value in row)


def test_without_a_probability_the_mapper_is_as_it_was(regions):
    mapper = plain_mapper()
    assert with_copy_paste(config(regions[0], 0.0, "no sampler"), mapper, []) is mapper
    assert mapper.paste is None


def boxed(**changes):
    annotation = {"category_id": 0, "bbox": [0, 0, 1, 1], "bbox_mode": 1}
    return [{"file_name": "a.jpg", "annotations": [annotation], **changes}]


@pytest.mark.parametrize(
    ("changes", "records", "parts"),
    [
        ({"MODEL.MASK_ON": False}, boxed(), ("MODEL.MASK_ON", "False")),
        ({"INPUT.MASK_FORMAT": "polygon"}, boxed(), ("INPUT.MASK_FORMAT", "bitmask")),
        ({"MODEL.KEYPOINT_ON": True}, boxed(), ("MODEL.KEYPOINT_ON", "True")),
        ({}, boxed(sem_seg_file_name="a.png"), (f"{PASTE}.PROBABILITY", "toy_regions")),
        ({}, [{"file_name": "a.jpg"}], (f"{PASTE}.PROBABILITY", "toy_regions")),
        ({f"{PASTE}.SAMPLER": "Balanced"}, boxed(), (f"{PASTE}.SAMPLER", "'Balanced'")),
    ],
)
def test_what_cannot_be_pasted(regions, changes, records, parts):
    cfg = config(regions[0])
    values = {"MODEL.MASK_ON": True, "INPUT.MASK_FORMAT": "bitmask", **changes}
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    options = {"is_train": True, "augmentations": [], "image_format": "RGB"}
    with raises_naming(ValueError, *parts):
        with_copy_paste(cfg, InstanceDatasetMapper(**options), records)


def test_regions_need_a_sampler_that_draws_a_class(regions):
    name, records = regions
    with raises_naming(ValueError, f"{PASTE}.SAMPLER", "TrainingSampler"):
        with_copy_paste(config(name, sampler="TrainingSampler"), plain_mapper(), records)


def test_regions_need_whole_images(regions):
    cfg = config(regions[0])
    cfg.INPUT.REDUCED_DECODING = True
    with raises_naming(ValueError, f"{PASTE}.PROBABILITY 1", "INPUT.REDUCED_DECODING"):
        with_copy_paste(cfg, plain_mapper(), regions[1])


def test_a_sampler_of_ones_own_that_does_not_say_how_often(regions, monkeypatch):
    class Own(EpochSampler):
        @classmethod
        def from_records(cls, cfg, dataset_dicts, *, seed=None):
            return cls(seed)

    monkeypatch.setitem(SAMPLER_REGISTRY._obj_map, "Own", Own)
    cfg = config(regions[0], sampler="Own")
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    with raises_naming(ValueError, f"{PASTE}.SAMPLER", "Own"):
        with_copy_paste(cfg, lambda record: record, boxed())
