# SPDX-License-Identifier: Apache-2.0
"""Class statistics: imbalance factors, the cache, several data sets, several processes."""

import json
import math
import os
import re
import shutil

import numpy as np
import pytest
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.commands.class_statistics import main as class_statistics
from longtail.data.statistics.class_stats import (
    ClassStats,
    compute_class_stats,
    get_class_stats,
    locate_class_stats,
)
from tests.data.label_maps import CLASSES, instance_record, reference_counts, save_labels
from tests.messages import raises_naming
from tests.processes import run_in_two_processes


@pytest.mark.parametrize(
    "name, num_images, pif, rif",
    [
        ("ade20k_sem_seg_train", 20210, 827.46, 282.63),
        ("coco_stuff_164k_sem_seg_train", 118287, 2612.70, 528.64),
    ],
)
def test_packaged_counts_give_figure_5b(cache, name, num_images, pif, rif):
    stats = get_class_stats(name)
    assert stats.num_images == num_images
    assert (stats.image_count <= num_images).all()
    assert round(stats.pixel_imbalance_factor, 2) == pif
    assert round(stats.region_imbalance_factor, 2) == rif
    assert stats.class_names[0] == {20210: "wall", 118287: "person"}[num_images]
    assert not cache.exists()


def test_packaged_counts_are_those_of_ade20ks_authors():
    """Images of the first classes in their objectInfo150.txt, which counts a few more images."""
    counts = {"wall": 11664, "building": 6046, "sky": 8265, "floor": 9336}
    counts |= {"tree": 6678, "ceiling": 6604, "road, route": 4023}
    stats = get_class_stats("ade20k_sem_seg_train")
    assert [name.split(",")[0] for name in stats.class_names[:7]] == [
        name.split(",")[0] for name in counts
    ]
    for given, published in zip(stats.image_count, counts.values(), strict=False):
        assert 0.99 * published < given <= published


def test_imbalance_factors_by_hand():
    stats = ClassStats(("a", "b"), 9, np.array([30, 4]), np.array([9, 2]), None)
    assert stats.pixel_imbalance_factor == 7.5
    assert stats.region_imbalance_factor == 4.5
    never = ClassStats(("a", "b"), 9, np.array([30, 0]), np.array([9, 0]), None)
    assert never.pixel_imbalance_factor == math.inf
    assert never.region_imbalance_factor == math.inf
    with pytest.raises(ValueError, match=r"image_count must be .* each of the 2 classes"):
        ClassStats(("a", "b"), 9, None, np.array([9]), None)


@pytest.mark.parametrize("name", ["pixel_count", "image_count", "instance_count"])
@pytest.mark.parametrize("count", [[3, -1], [3], [3, 1, 1]])
def test_counts_are_one_number_from_zero_for_each_class(name, count):
    counts = {"pixel_count": [5, 5], "image_count": [2, 0], "instance_count": None}
    assert ClassStats(("a", "b"), 3, **counts).image_count.tolist() == [2, 0]
    with raises_naming(ValueError, name, "2 classes"):
        ClassStats(("a", "b"), 3, **{**counts, name: count})


def test_json_round_trip(street):
    stats = compute_class_stats(street[0])
    assert ClassStats.from_dict(json.loads(json.dumps(stats.to_dict()))) == stats


def swap_content(file, labels, *, keep_time):
    """Replace a label file by one of the same size, hidden from the fingerprint or not."""
    before = file.stat()
    save_labels(file, labels)
    assert file.stat().st_size == before.st_size
    later = before.st_mtime_ns + (0 if keep_time else 1_000_000_000)
    os.utime(file, ns=(before.st_atime_ns, later))


def test_the_cache_is_used_until_a_file_changes(street, cache):
    name, maps, files = street
    first = get_class_stats(name)
    assert first == compute_class_stats(name)
    [cached] = cache.iterdir()
    assert re.fullmatch(r"toy_street-[0-9a-f]{12}\.json", cached.name)

    # A pass would see the new labels; they are invisible only if none takes place.
    changed = np.full_like(maps[0], 3)
    swap_content(files[0], changed, keep_time=True)
    assert get_class_stats(name) == first
    assert locate_class_stats(name) == (first, cached)

    swap_content(files[0], changed, keep_time=False)
    pixels, images = reference_counts([changed, *maps[1:]], len(CLASSES))
    second = get_class_stats(name)
    assert second.pixel_count.tolist() == pixels
    assert second.image_count.tolist() == images
    assert len(list(cache.iterdir())) == 2


def test_other_class_names_or_ignore_label_are_another_fingerprint(street, cache):
    name = street[0]
    get_class_stats(name)
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(stuff_classes=CLASSES[::-1], ignore_label=255)
    assert get_class_stats(name).class_names == tuple(CLASSES[::-1])
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(stuff_classes=[*CLASSES, "x"] * 43, ignore_label=0)
    assert get_class_stats(name).pixel_count[0] == 0
    assert len(list(cache.iterdir())) == 3


def test_a_moved_data_set_keeps_its_fingerprint(register, street, tmp_path, cache):
    name, _, files = street
    get_class_stats(name)
    shutil.copytree(files[0].parent, tmp_path / "moved", copy_function=shutil.copy2)
    DatasetCatalog.remove(name)
    moved = [tmp_path / "moved" / file.name for file in reversed(files)]
    DatasetCatalog.register(
        name, lambda: [{"file_name": f.stem, "sem_seg_file_name": str(f)} for f in moved]
    )
    get_class_stats(name)
    assert len(list(cache.iterdir())) == 1


def test_changed_annotations_are_another_fingerprint(register, cache):
    records = [instance_record("a.jpg", [0]), instance_record("b.jpg", [1])]
    name = register("toy_boxes", records, thing_classes=["cat", "dog"])
    assert get_class_stats(name).instance_count.tolist() == [1, 1]
    records[0] = instance_record("a.jpg", [0, 1])
    assert get_class_stats(name).instance_count.tolist() == [1, 2]
    # As many as at first, but of another class.
    records[0] = instance_record("a.jpg", [1])
    assert get_class_stats(name).instance_count.tolist() == [0, 2]


@pytest.mark.parametrize("damage", ["cut", "digit", "other", "binary"])
def test_a_damaged_cache_file_is_not_trusted(street, cache, caplog, damage):
    name = street[0]
    stats = get_class_stats(name)
    [cached] = cache.iterdir()
    text = cached.read_text()
    if damage == "cut":
        cached.write_text(text[: len(text) // 2])
    elif damage == "digit":
        cached.write_text(text.replace('"num_images": 5', '"num_images": 6'))
        assert cached.read_text() != text
    elif damage == "other":
        cached.write_text("[]")
    else:
        cached.write_bytes(b"\xff\x00\xfe")
    assert get_class_stats(name) == stats
    assert f"{cached} is damaged" in caplog.text
    assert cached.read_text() == text


def test_a_cache_that_cannot_be_written_is_a_warning(street, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "file"))
    stats, path = locate_class_stats(street[0])
    assert path is None
    assert stats == compute_class_stats(street[0])
    assert "LONGTAIL_CACHE" in caplog.text


def test_several_data_sets_are_added(register, street, tmp_path):
    record = save_labels(tmp_path / "more.png", np.array([[4, 4, 0]]))
    more = register("toy_more", [record], stuff_classes=CLASSES, ignore_label=255)
    total = get_class_stats((street[0], more))
    one = compute_class_stats(street[0])
    assert total.num_images == 6
    assert (total.pixel_count - one.pixel_count).tolist() == [1, 0, 0, 0, 2]
    assert (total.image_count - one.image_count).tolist() == [1, 0, 0, 0, 1]
    other = register("toy_other", [record], stuff_classes=["a", "b", "c", "d", "e"])
    with pytest.raises(ValueError, match=r"'toy_street' .*'toy_other' .*different class names"):
        get_class_stats([street[0], other])
    with pytest.raises(ValueError, match="list of names is empty"):
        get_class_stats(())


def run_process(rank, folder):
    """One of two processes, each with a cache of its own, as on two machines."""
    os.environ["LONGTAIL_CACHE"] = str(folder / f"cache{rank}")
    record = {"file_name": "0.jpg", "sem_seg_file_name": str(folder / "0.png")}

    def records():
        with open(folder / f"reads{rank}", "a") as file:
            file.write("read\n")
        return [record]

    DatasetCatalog.register("toy_dist", records)
    MetadataCatalog.get("toy_dist").set(stuff_classes=CLASSES, ignore_label=255)
    stats = get_class_stats("toy_dist")
    (folder / f"stats{rank}.json").write_text(json.dumps(stats.to_dict()))
    dist.barrier()  # both have read before the file goes
    record["sem_seg_file_name"] = "gone.png"
    for name in ("toy_dist", "toy_missing"):
        try:
            get_class_stats(name)
        except (ValueError, FileNotFoundError) as error:
            with open(folder / f"error{rank}", "a") as file:
                file.write(f"{type(error).__name__} {error}\n")


def test_two_processes_count_once_and_share_result_and_error(tmp_path):
    save_labels(tmp_path / "0.png", np.array([[0, 0, 3]]))
    run_in_two_processes(run_process, tmp_path)
    stats = [json.loads((tmp_path / f"stats{rank}.json").read_text()) for rank in range(2)]
    assert stats[0] == stats[1]
    assert ClassStats.from_dict(stats[1]).pixel_count.tolist() == [2, 0, 0, 1, 0]
    errors = [(tmp_path / f"error{rank}").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("FileNotFoundError gone.png is missing")
    assert "ValueError data set 'toy_missing' is not registered" in errors[0]
    assert (tmp_path / "reads0").exists() and not (tmp_path / "reads1").exists()
    assert (tmp_path / "cache0").exists() and not (tmp_path / "cache1").exists()


def test_the_command_prints_a_table(street, capsys, cache):
    class_statistics(["--dataset", street[0], "--workers", "2"])
    output = capsys.readouterr().out
    stats = compute_class_stats(street[0])
    rows = [line.split() for line in output.splitlines()[2:7]]
    assert [row[0] for row in rows][-1] == "never"
    for row in rows:
        index = CLASSES.index(row[0])
        share = 100 * stats.pixel_count[index] / stats.pixel_count.sum()
        assert int(row[1]) == stats.pixel_count[index]
        assert float(row[2]) == pytest.approx(share, abs=1e-4)
        assert int(row[3]) == stats.image_count[index]
    counts = [int(row[1]) for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert "pixel imbalance factor  inf" in output
    assert str(next(cache.iterdir())) in output
    with pytest.raises(SystemExit, match=r"^error: data set 'toy_stret' is not registered"):
        class_statistics(["--dataset", "toy_stret"])
    with pytest.raises(SystemExit, match=r"^error: num_workers must be at least 1, got 0"):
        class_statistics(["--dataset", street[0], "--workers", "0"])
