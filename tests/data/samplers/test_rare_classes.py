# SPDX-License-Identifier: Apache-2.0
"""Samplers for rare classes against the probabilities of their formulas, from counts by hand.

A count of n draws is binomial: within 4.5 standard deviations with probability 1 - 7e-6.
"""

import itertools
import json
import math
import os
from collections import Counter

import numpy as np
import pytest
from detectron2.config import get_cfg

from longtail.data.samplers import build_train_sampler
from longtail.data.samplers.occurrences import count_occurrences, image_frequency
from longtail.data.statistics import counting
from longtail.data.statistics.class_stats import get_class_stats, get_image_classes
from tests.data.label_maps import CLASSES, save_labels
from tests.messages import raises_naming
from tests.processes import run_in_two_processes
from tests.references.methods import by_class, rare_classes, repeats

RARE, REPEAT = "RareClassTrainingSampler", "RepeatFactorTrainingSampler"
BALANCED, INSTANCES = "ClassBalancedTrainingSampler", "InstanceAwareRepeatFactorTrainingSampler"
# Label maps of 10 pixels: pixels of classes 0, 1, 3; the rest is ignored. Class 2, 4 never occur.
PIXELS = [{0: 10}, {0: 9, 1: 1}, {0: 6, 1: 2, 3: 2}, {0: 10}, {}, {0: 8}]
N, DRAWS = len(PIXELS), 20_000
# Instances of each image, as categories; the last is only a crowd.
BOXES = [[7, 7, 7, 7], [7, 2], [7], [], [2, 2, 2, 5], [7]]


def config(sampler, *names, temperature=0.1, threshold=0.5):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = names
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.REPEAT_THRESHOLD = threshold
    cfg.DATALOADER.RARE_CLASS_TEMPERATURE = temperature
    return cfg


def save_maps(folder):
    records = []
    for i, counts in enumerate(PIXELS):
        labels = [c for c, number in counts.items() for _ in range(number)]
        labels += [255] * (10 - len(labels))
        records.append(save_labels(folder / f"{i}.png", np.array(labels).reshape(2, 5)))
    return records


@pytest.fixture
def maps(register, tmp_path):
    """Six label maps: the name of the data set, and its records."""
    records = save_maps(tmp_path / "maps")
    return register("toy_maps", records, stuff_classes=CLASSES, ignore_label=255), records


def boxes():
    listed = [
        {"file_name": f"{i}.jpg", "annotations": [{"category_id": c} for c in found]}
        for i, found in enumerate(BOXES)
    ]
    listed[3]["annotations"] = [{"category_id": 1, "iscrowd": 1}]
    return listed


# 43 pixels of class 0, 3 of class 1, 2 of class 3. 6 instances of class 7, 4 of 2 and 1 of 5.
OF_PIXELS = {0: 43 / 48, 1: 3 / 48, 3: 2 / 48}
OF_BOXES = {7: 7 / 12, 2: 4 / 12, 5: 1 / 12}
PIXEL_IMAGES = {0: [0, 1, 2, 3, 5], 1: [1, 2], 3: [2]}
BOX_IMAGES = {7: [0, 1, 2, 5], 2: [1, 4], 5: [4]}


# The images of each class, of 6, and for instances times their part of 12.
PIXEL_FREQUENCY = {0: 5 / 6, 1: 2 / 6, 3: 1 / 6}
BOX_FREQUENCY = {
    7: math.sqrt(4 / 6 * 7 / 12),
    2: math.sqrt(2 / 6 * 4 / 12),
    5: math.sqrt(1 / 6 * 1 / 12),
}
CASES = {
    (RARE, "maps"): by_class(rare_classes(OF_PIXELS, 0.1), PIXEL_IMAGES, N),
    (BALANCED, "maps"): by_class(dict.fromkeys(OF_PIXELS, 1 / 3), PIXEL_IMAGES, N),
    (REPEAT, "maps"): repeats(PIXELS, PIXEL_FREQUENCY, 0.5),
    (RARE, "boxes"): by_class(rare_classes(OF_BOXES, 0.1), BOX_IMAGES, N),
    (INSTANCES, "boxes"): repeats(BOXES, BOX_FREQUENCY, 0.5),
}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_images_are_drawn_as_the_formula_says(maps, name, kind):
    expected = CASES[name, kind]
    assert sum(expected) == pytest.approx(1, abs=1e-12)
    records = maps[1] if kind == "maps" else boxes()
    sampler = build_train_sampler(config(name, maps[0]), records, seed=0)
    assert sampler.shares(N).tolist() == pytest.approx(expected, abs=1e-6)
    counts = Counter(itertools.islice(sampler, DRAWS))
    for i, p in enumerate(expected):
        # Repeats are less random than independent draws.
        assert abs(counts[i] - DRAWS * p) <= 4.5 * math.sqrt(DRAWS * p * (1 - p)), i
    assert set(counts) <= {i for i, p in enumerate(expected) if p}
    assert set(counts) >= {i for i, p in enumerate(expected) if p > 1e-3}


def test_the_part_of_the_drawn_images_that_have_a_class(maps):
    cfg = config(RARE, maps[0])
    expected = CASES[RARE, "maps"]
    shares = build_train_sampler(cfg, maps[1], seed=0).shares(N)
    occurrences = count_occurrences(cfg, maps[1])
    assert occurrences == PIXELS
    found = image_frequency(occurrences, len(CLASSES), shares)
    by_hand = [sum(expected[i] for i in PIXEL_IMAGES.get(c, [])) for c in range(5)]
    assert found.tolist() == pytest.approx(by_hand, abs=1e-12)
    uniform = image_frequency(occurrences, len(CLASSES)).tolist()
    assert uniform == pytest.approx([5 / 6, 2 / 6, 0, 1 / 6, 0], abs=1e-12)
    assert found[3] > 2 * uniform[3]


def test_a_high_temperature_balances_and_a_low_one_takes_the_rarest(maps):
    def weights(temperature):
        cfg = config(RARE, maps[0], temperature=temperature)
        return build_train_sampler(cfg, maps[1], seed=0).class_weights().tolist()

    assert weights(1e6) == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert weights(1e-300) == [0, 0, 1]


def test_an_epoch_of_repeats_keeps_the_whole_part(maps):
    """r = 2.6 comes two or three times an epoch, and 2.6 times on average."""
    sampler = build_train_sampler(config(INSTANCES, maps[0]), boxes(), seed=1)
    r = math.sqrt(0.5 / BOX_FREQUENCY[5])
    assert 2 < r < 3
    counts = [sampler.epoch(number).tolist().count(4) for number in range(2000)]
    assert {*counts} == {2, 3}
    bound = 4.5 * math.sqrt((r - 2) * (3 - r) / 2000)
    assert abs(sum(counts) / 2000 - r) < bound


@pytest.mark.parametrize("name", [RARE, REPEAT, BALANCED])
def test_epochs_are_a_function_of_the_seed(maps, name):
    """So a position in the stream is its state, as with the samplers beside."""
    first, second = (build_train_sampler(config(name, maps[0]), maps[1], seed=5) for _ in "ab")
    epochs = [first.epoch(number).tolist() for number in range(4)]
    assert second.epoch(3).tolist() == epochs[3] != epochs[2]
    assert [*itertools.islice(first, len(epochs[0]))] == epochs[0]


def write_draws(rank, folder):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    os.environ["LONGTAIL_CACHE"] = str(folder / f"cache{rank}")
    records = [
        {"file_name": "x", "sem_seg_file_name": str(folder / "maps" / f"{i}.png")} for i in range(N)
    ]
    DatasetCatalog.register("toy_shared", lambda: records)
    MetadataCatalog.get("toy_shared").set(stuff_classes=CLASSES, ignore_label=255)
    sampler = build_train_sampler(config(RARE, "toy_shared"), records)
    drawn = [sampler.seed, [*itertools.islice(sampler, 30)]]
    (folder / f"{rank}.json").write_text(json.dumps(drawn))


def test_two_processes_share_one_stream_and_one_pass(tmp_path, maps):
    run_in_two_processes(write_draws, tmp_path)
    (seed, first), (other, second) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)
    )
    whole = [*itertools.islice(build_train_sampler(config(RARE, maps[0]), maps[1], seed=seed), 60)]
    assert seed == other and [first, second] == [whole[0::2], whole[1::2]]
    assert (tmp_path / "cache0").exists() and not (tmp_path / "cache1").exists()


def test_a_kept_start_opens_no_label_map(maps, monkeypatch, cache):
    """One pass is for the class statistics and for the classes of the images."""
    name, records = maps
    get_class_stats(name)
    monkeypatch.setattr(counting, "label_image", lambda file: pytest.fail(f"opened {file}"))
    found = get_image_classes([name])
    assert [found[os.path.abspath(record["sem_seg_file_name"])] for record in records] == PIXELS
    build_train_sampler(config(REPEAT, name), records, seed=0)
    (kept,) = (cache.parent / "image_classes").iterdir()
    monkeypatch.undo()
    monkeypatch.setenv("LONGTAIL_CACHE", str(cache.parent))
    kept.write_text(kept.read_text().replace("[0, 10]", "[0, 11]"))
    assert found == get_image_classes([name])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive(maps, temperature):
    with raises_naming(ValueError, "DATALOADER.RARE_CLASS_TEMPERATURE", str(temperature)):
        build_train_sampler(config(RARE, maps[0], temperature=temperature), maps[1], seed=0)


def test_what_samplers_cannot_draw_by(maps):
    plain = [{"file_name": "a.jpg"}]
    for name in (RARE, BALANCED):
        with raises_naming(ValueError, name, "DATALOADER.SAMPLER_TRAIN TrainingSampler"):
            build_train_sampler(config(name, maps[0]), plain, seed=0)
    with raises_naming(ValueError, INSTANCES, "annotations", "6", REPEAT):
        build_train_sampler(config(INSTANCES, maps[0]), maps[1], seed=0)
    other = [{"file_name": "a.jpg", "sem_seg_file_name": "/nowhere/else.png"}]
    with raises_naming(ValueError, "/nowhere/else.png", "DATASETS.TRAIN", "toy_maps"):
        build_train_sampler(config(RARE, maps[0]), other, seed=0)
