# SPDX-License-Identifier: Apache-2.0
"""Counting label maps in two processes: each reads a part, and the counts are those of one."""

import json
import os
from traceback import format_exception

import numpy as np
import pytest
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.formats import images
from longtail.data.statistics import counting
from longtail.data.statistics.class_stats import get_class_stats, get_image_classes
from longtail.utils import cores
from longtail.utils.distributed import from_main_process, in_all_processes
from longtail.utils.errors import describe
from tests.data.label_maps import CLASSES, random_labels, reference_counts, save_labels
from tests.processes import run_in_two_processes

COUNT = 7


def register(folder):
    files = [str(folder / f"{i}.png") for i in range(COUNT)]
    records = [{"file_name": f"{i}.jpg", "sem_seg_file_name": f} for i, f in enumerate(files)]
    DatasetCatalog.register("toy_shared", lambda: records)
    MetadataCatalog.get("toy_shared").set(stuff_classes=CLASSES, ignore_label=255)
    return files


def noting(path, missing=""):
    """Note the label maps that this process opens; one may be on other machines' disks alone."""

    def read(file):
        if os.path.basename(file) == missing:
            raise FileNotFoundError(f"{file} is missing")
        with open(path, "a") as notes:
            notes.write(f"{os.path.basename(file)}\n")
        return images.label_image(file)

    counting.label_image = read


def write_counts(folder, rank):
    stats, classes = get_class_stats("toy_shared"), get_image_classes(["toy_shared"])
    content = {**stats.to_dict(), "images": {f: list(c.items()) for f, c in classes.items()}}
    (folder / f"counts{rank}.json").write_text(json.dumps(content))


def counting_process(rank, folder):
    register(folder)
    os.environ["LONGTAIL_CACHE"] = str(folder / f"cache{rank}")
    noting(folder / f"reads{rank}")
    write_counts(folder, rank)


def other_disk_process(rank, folder):
    register(folder)
    os.environ["LONGTAIL_CACHE"] = str(folder / f"cache{rank}")
    noting(folder / f"reads{rank}", missing="5.png" if rank else "")
    write_counts(folder, rank)


@pytest.fixture
def label_maps(tmp_path):
    """The arrays of seven label maps, and their files in a folder."""
    maps = random_labels(3, COUNT)
    for index, labels in enumerate(maps):
        save_labels(tmp_path / f"{index}.png", labels)
    return maps


def reads(folder, rank):
    return sorted((folder / f"reads{rank}").read_text().split())


def assert_counted(folder, maps):
    counts = [json.loads((folder / f"counts{rank}.json").read_text()) for rank in (0, 1)]
    assert counts[0] == counts[1]
    pixels, images_with = reference_counts(maps, len(CLASSES))
    assert [row["pixel_count"] for row in counts[0]["classes"]] == pixels
    assert [row["image_count"] for row in counts[0]["classes"]] == images_with
    for index, labels in enumerate(maps):
        values, numbers = np.unique(labels[labels != 255], return_counts=True)
        expected = [list(pair) for pair in zip(values.tolist(), numbers.tolist(), strict=True)]
        assert counts[0]["images"][str(folder / f"{index}.png")] == expected


def test_each_process_reads_its_part_once(tmp_path, label_maps):
    run_in_two_processes(counting_process, tmp_path)
    assert_counted(tmp_path, label_maps)
    assert reads(tmp_path, 0) == [f"{i}.png" for i in (0, 2, 4, 6)]
    assert reads(tmp_path, 1) == [f"{i}.png" for i in (1, 3, 5)]


def test_a_process_without_the_files_leaves_them_to_the_main_process(tmp_path, label_maps):
    run_in_two_processes(other_disk_process, tmp_path)
    assert_counted(tmp_path, label_maps)
    assert reads(tmp_path, 0) == [f"{i}.png" for i in range(COUNT)]


def failing_process(rank, folder):
    register(folder)
    os.environ["LONGTAIL_CACHE"] = str(folder / f"cache{rank}")
    errors = []
    # Of the second process's part, of the first one's, and none: the processes are still in step.
    for bad in ("1.png", "2.png", ""):
        dist.barrier()
        if rank == 0:
            for i in range(COUNT):
                labels = np.full((2, 2), 77 if f"{i}.png" == bad else 1, np.uint8)
                save_labels(folder / f"{i}.png", labels)
        dist.barrier()
        try:
            errors.append(get_class_stats("toy_shared").pixel_count.tolist())
        except ValueError as error:
            errors.append(str(error))
    (folder / f"errors{rank}.json").write_text(json.dumps(errors))


def test_an_error_of_any_process_reaches_all(tmp_path):
    run_in_two_processes(failing_process, tmp_path)
    errors = [json.loads((tmp_path / f"errors{rank}.json").read_text()) for rank in (0, 1)]
    assert errors[0] == errors[1]
    for name, message in zip(("1.png", "2.png"), errors[0], strict=False):
        assert name in message and "label 77" in message and "\n" not in message
    assert errors[0][2] == [0, 4 * COUNT, 0, 0, 0]


def test_one_process_computes_alone():
    assert in_all_processes(lambda items: [2 * i for i in items], [1, 2, 3]) == [2, 4, 6]
    assert from_main_process(lambda: in_all_processes(list, "abc")) == ["a", "b", "c"]
    with pytest.raises(KeyError):
        from_main_process(lambda: {}["absent"])


def raising(items):
    """In the second process alone, the error that is in its part."""
    if 1 in items:
        raise items[1]
    return [0] * len(items)


KINDS = [
    KeyError("no class 'cat' in the file"),
    ImportError("install the package"),
    FloatingPointError("the loss is nan"),
    ZeroDivisionError("nobody has foreseen this"),
]


def kinds_process(rank, folder):
    found = []
    for error in KINDS:
        try:
            from_main_process(lambda error=error: in_all_processes(raising, [0, 1, 2, error]))
        except Exception as received:
            found.append([describe(received), "in raising" in "".join(format_exception(received))])
    (folder / f"errors{rank}.json").write_text(json.dumps(found))


def test_kinds_and_tracebacks_of_errors_are_kept(tmp_path):
    run_in_two_processes(kinds_process, tmp_path)
    errors = [json.loads((tmp_path / f"errors{rank}.json").read_text()) for rank in (0, 1)]
    unforeseen = "RuntimeError: nobody has foreseen this (unexpected)"
    said = ["no class 'cat' in the file", "install the package", "the loss is nan", unforeseen]
    assert errors == [[[line, True] for line in said]] * 2


def nested(items):
    """Twice the items, by functions that other processes take part in where they listen."""
    return from_main_process(lambda: in_all_processes(lambda part: [2 * i for i in part], items))


def nested_process(rank, folder):
    doubled = from_main_process(
        lambda: from_main_process(lambda: in_all_processes(nested, [1, 2, 3]))
    )
    (folder / f"doubled{rank}").write_text(str(doubled))


def test_shared_work_within_shared_work_is_done_alone(tmp_path):
    run_in_two_processes(nested_process, tmp_path)
    assert [(tmp_path / f"doubled{rank}").read_text() for rank in (0, 1)] == ["[2, 4, 6]"] * 2


def test_processes_of_torchrun_share_the_cores(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores.cores_of_process() == 12
    for processes, share in ((5, 2), (12, 1), (16, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert cores.cores_of_process() == share
