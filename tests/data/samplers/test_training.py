# SPDX-License-Identifier: Apache-2.0
"""Sampling by classes against the probabilities that its definition gives."""

import itertools
import json
import math
from collections import Counter

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler

from longtail.data.samplers import (
    ClassBalancedTrainingSampler,
    SquareRootTrainingSampler,
    build_train_sampler,
)
from tests.processes import run_in_two_processes

# Four classes occur: 7 everywhere, 2 in two images, 5 in one, 0 in one; class 3 only as a crowd.
CLASSES_OF_IMAGES = [[7], [7, 7, 2], [], [7, 5], [2, 7], [0]]
CROWDED = 2
KINDS = (ClassBalancedTrainingSampler, SquareRootTrainingSampler)
IMAGES_BY_CLASS = [[5], [1, 4], [3], [0, 1, 3, 4]]


def records():
    listed = [
        {
            "file_name": f"{i}.jpg",
            "annotations": [{"category_id": c, "iscrowd": 0} for c in classes],
        }
        for i, classes in enumerate(CLASSES_OF_IMAGES)
    ]
    listed[CROWDED]["annotations"].append({"category_id": 3, "iscrowd": 1})
    return listed


def config(sampler):
    cfg = get_cfg()
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    return cfg


def test_images_of_every_class():
    by_class = ClassBalancedTrainingSampler.images_by_class_from_dataset_dicts(records())
    assert by_class == IMAGES_BY_CLASS


def test_distribution():
    """An image's probability is the sum over its classes of 1 / (K n_c), n_c images of class c.

    The count of n draws is binomial: within 4.5 standard deviations with probability 1 - 7e-6.
    """
    n = 20_000
    stream = ClassBalancedTrainingSampler(IMAGES_BY_CLASS, seed=0)
    counts = Counter(itertools.islice(stream, n))
    expected = {0: 1 / 16, 1: 3 / 16, 3: 5 / 16, 4: 3 / 16, 5: 1 / 4}
    assert sum(expected.values()) == 1 and counts.keys() == expected.keys()
    for image, p in expected.items():
        assert abs(counts[image] - n * p) < 4.5 * math.sqrt(n * p * (1 - p)), image


def test_classes_are_drawn_alike_however_rare():
    """Where images have one class each: 50 classes of 1 to 500 images, 400 draws expected each."""
    sizes = torch.logspace(0, math.log10(500), 50).round().int().tolist()
    starts = [0, *itertools.accumulate(sizes)]
    by_class = [list(range(a, b)) for a, b in itertools.pairwise(starts)]
    class_of = {image: c for c, images in enumerate(by_class) for image in images}
    n = 20_000
    drawn = list(itertools.islice(ClassBalancedTrainingSampler(by_class, seed=1), n))
    counts = Counter(class_of[image] for image in drawn)
    # Chi square with 49 degrees of freedom: below 94 with probability 1 - 1e-4.
    chi_square = sum((counts[c] - n / 50) ** 2 / (n / 50) for c in range(50))
    assert chi_square < 94
    # Its lower end: draws that went round the classes in turn would give 0.
    assert chi_square > 20
    # Also within the largest class, the images are drawn alike: none takes more than a few.
    largest = Counter(image for image in drawn if class_of[image] == 49)
    assert len(largest) > 200 and max(largest.values()) <= 8


def labeled(sizes):
    """Records of one class each, so many of every class, not in the order of the classes."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    return [{"file_name": f"{i}.jpg", "label": label} for i, label in enumerate(labels[::-1])]


def test_labels_are_classes():
    """Also where there is more: a label is the image's one class."""
    listed = labeled([2, 0, 1])
    listed[0]["annotations"] = [{"category_id": 1}]
    by_class = ClassBalancedTrainingSampler.images_by_class_from_dataset_dicts(listed)
    assert by_class == [[1, 2], [0]]


@pytest.mark.parametrize(
    ("name", "exponent"), [("ClassBalancedTrainingSampler", 0), ("SquareRootTrainingSampler", 0.5)]
)
def test_probabilities_of_classes_and_images(monkeypatch, name, exponent):
    """p_j = n_j^q / sum_k n_k^q, and within class j 1 / n_j each.

    The count of n draws is binomial: within 4.5 standard deviations with probability 1 - 7e-6.
    """
    monkeypatch.setattr("detectron2.utils.comm.shared_random_seed", lambda: 11)
    sizes, n = (100, 36, 9, 1), 20_000
    listed = labeled(sizes)
    drawn = list(itertools.islice(build_train_sampler(config(name), listed), n))
    powers = [size**exponent for size in sizes]
    # Square roots 10, 6, 3, 1 of 20.
    assert exponent == 0 or powers == [10, 6, 3, 1]
    counts = Counter(listed[image]["label"] for image in drawn)
    for label, power in enumerate(powers):
        p = power / sum(powers)
        assert abs(counts[label] - n * p) < 4.5 * math.sqrt(n * p * (1 - p)), label
    for image, count in Counter(drawn).items():
        label = listed[image]["label"]
        p = powers[label] / sum(powers) / sizes[label]
        assert abs(count - n * p) < 4.5 * math.sqrt(n * p * (1 - p)), image
    assert len(set(drawn)) == sum(sizes)


def test_square_root_lies_between():
    """A rare class is drawn more often than its share of the images, and less than balanced."""
    by_class, n = [list(range(99)), [99]], 5000
    shares = [
        sum(image == 99 for image in itertools.islice(sampler(by_class, seed=2), n)) / n
        for sampler in (SquareRootTrainingSampler, ClassBalancedTrainingSampler)
    ]
    # 1 / (sqrt(99) + 1) and 1 / 2, within 4.5 standard deviations.
    for share, p in zip(shares, (1 / (math.sqrt(99) + 1), 0.5), strict=True):
        assert abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / n)
    assert 0.01 + 0.04 < shares[0] < shares[1] - 0.3


def test_the_stream_does_not_end_and_does_not_repeat():
    stream = list(itertools.islice(ClassBalancedTrainingSampler(IMAGES_BY_CLASS, seed=0), 2000))
    assert len(stream) == 2000
    assert stream[:1000] != stream[1000:]


def test_the_seed_decides():
    def first(seed):
        return list(itertools.islice(ClassBalancedTrainingSampler(IMAGES_BY_CLASS, seed=seed), 50))

    assert first(3) == first(3) != first(4)


def test_iterating_twice_gives_the_same_stream():
    """As with detectron2's samplers: each worker of a loader iterates over its own copy."""
    sampler = ClassBalancedTrainingSampler(IMAGES_BY_CLASS)
    assert list(itertools.islice(sampler, 50)) == list(itertools.islice(sampler, 50))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_interleave(monkeypatch, world_size, kind):
    whole = list(itertools.islice(kind(IMAGES_BY_CLASS, seed=5), 60))
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: world_size)
    for rank in range(world_size):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        sampler = kind(IMAGES_BY_CLASS, seed=5)
        assert list(itertools.islice(sampler, 60 // world_size)) == whole[rank::world_size]


def write_first_draws(rank, folder):
    drawn = {}
    for kind in KINDS:
        sampler = build_train_sampler(config(kind.__name__), records())
        drawn[kind.__name__] = [sampler.seed, list(itertools.islice(sampler, 30))]
    (folder / f"{rank}.json").write_text(json.dumps(drawn))


def test_two_processes_share_one_stream(tmp_path):
    """Without a seed they agree on one."""
    run_in_two_processes(write_first_draws, tmp_path)
    written = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for kind in KINDS:
        (seed, first), (other_seed, second) = (drawn[kind.__name__] for drawn in written)
        assert seed == other_seed
        whole = list(itertools.islice(kind(IMAGES_BY_CLASS, seed=seed), 60))
        assert [first, second] == [whole[0::2], whole[1::2]]


@pytest.mark.parametrize("by_class", [[], [[0], []]], ids=["no class", "class without images"])
def test_nothing_to_draw(by_class):
    with pytest.raises(ValueError, match="needs at least one class, and an image of every class"):
        ClassBalancedTrainingSampler(by_class)


@pytest.mark.parametrize(
    "without", [[], [{"file_name": "a.jpg"}], records()[CROWDED : CROWDED + 1]], ids=len
)
def test_no_annotations(without):
    with pytest.raises(ValueError, match=rf"none of the {len(without)} images has a label or anno"):
        build_train_sampler(config("ClassBalancedTrainingSampler"), without)


@pytest.mark.parametrize(
    ("name", "number"), [("TrainingSampler", 6), ("RandomSubsetTrainingSampler", 3)]
)
def test_samplers_of_images(name, number):
    """An epoch has each of the 6 images once, or each of half of them."""
    cfg = config(name)
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    drawn = build_train_sampler(cfg, records(), seed=0).epoch(0).tolist()
    assert len(drawn) == len(set(drawn)) == number and set(drawn) <= set(range(6))


def test_unknown_sampler():
    with pytest.raises(ValueError, match=r"one of \['TrainingSampler', .*\], got 'Balanced'"):
        build_train_sampler(config("Balanced"), records())


def test_repeat_factors_without_annotations():
    """Such as those of a semantic data set; detectron2 itself says: 'annotations'."""
    listed = [*records(), {"file_name": "x.jpg"}]
    with pytest.raises(KeyError, match="annotations"):
        RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(listed, 0.1)
    with pytest.raises(ValueError, match=r"1 records \(such as x.jpg\) have no 'annotations'"):
        build_train_sampler(config("RepeatFactorTrainingSampler"), listed)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_in_the_loader_of_detectron2(num_workers):
    cfg = config("ClassBalancedTrainingSampler")
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = num_workers
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    sampler = build_train_sampler(cfg, records())
    loader = build_detection_train_loader(
        cfg, mapper=lambda record: record["file_name"], dataset=records(), sampler=sampler
    )
    batches = list(itertools.islice(loader, 10))
    expected = [f"{i}.jpg" for i in itertools.islice(sampler, 40)]
    # Several workers deal the stream out among themselves.
    assert sorted(itertools.chain.from_iterable(batches)) == sorted(expected)
    assert num_workers or list(itertools.chain.from_iterable(batches)) == expected
