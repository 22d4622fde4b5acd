# SPDX-License-Identifier: Apache-2.0
"""IoTKITs-LT: checked and copied, and the two parts of its training images."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.data.datasets.iotkits_lt import CLASSES
from longtail.data.prepare import prepare_dataset
from longtail.data.prepare.iotkits_lt import held_out_images, twin_groups
from tests.data.lvis_documents import annotation, categories, image, write
from tests.data.sources import files_under, run_tool

# By split the category of each image; the last two training images are one photograph twice.
CATEGORIES = {"train": [1, 1, 1, 1, 2, 2, 3, 3, 3, 3], "val": [1, 2, 32]}
TWINS = {8, 9}


def save_noise(path, seed, size=(32, 24)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def document(split):
    lists = {"neg_category_ids": [7], "not_exhaustive_category_ids": [], "coco_url": None}
    numbers = range(1, 1 + len(CATEGORIES[split]))
    return {
        "info": {"source": "somewhere"},
        "categories": categories(CLASSES),
        "images": [image(n, file_name=f"{n - 1:04d}.jpg", **lists) for n in numbers],
        "annotations": [
            annotation(n, n, category)
            for n, category in zip(numbers, CATEGORIES[split], strict=True)
        ],
    }


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "download"
    for number, (split, present) in enumerate(CATEGORIES.items()):
        write(folder / f"instances_{split}.json", document(split))
        for n in range(len(present)):
            seed = min(TWINS) if split == "train" and n in TWINS else n
            save_noise(folder / split / f"{n:04d}.jpg", seed + 100 * number)
    return folder


def test_everything_is_copied_and_train_is_parted(root, source, capsys):
    assert run_tool("iotkits_lt", "--source", source) == 0
    # 13 images, the annotations of two splits, and of the two parts of one.
    assert "iotkits_lt: 17 written, 0 skipped" in capsys.readouterr().out
    made = files_under(root / "iotkits_lt")
    for name, path in files_under(source).items():
        assert made[name].read_bytes() == path.read_bytes()
    records = {
        split: DatasetCatalog.get(f"iotkits_lt_{split}")
        for split in ("train", "val", "fit", "held_out")
    }
    ids = {split: [record["image_id"] for record in found] for split, found in records.items()}
    assert ids["train"] == [*range(1, 11)] and ids["val"] == [1, 2, 3]
    assert sorted(ids["fit"] + ids["held_out"]) == ids["train"]
    # A third of the 4 images of category 1 and of the 4 of 3, without a twin; none of two.
    held = [record["annotations"][0]["category_id"] for record in records["held_out"]]
    assert sorted(held) == [0, 2]
    assert not {9, 10} & {*ids["held_out"]}
    of_train = {record["image_id"]: record for record in records["train"]}
    for record in records["fit"] + records["held_out"]:
        assert record == of_train[record["image_id"]]
    metadata = MetadataCatalog.get("iotkits_lt_held_out")
    assert (metadata.evaluator_type, len(metadata.thing_classes)) == ("lvis", 32)
    part = json.loads((root / "iotkits_lt" / "instances_fit.json").read_text())
    assert part["categories"] == document("train")["categories"]
    assert part["info"] == {"source": "somewhere"}


def test_what_is_there_is_not_written_again(root, source):
    prepare_dataset("iotkits_lt", str(root), source=str(source))
    base = root / "iotkits_lt"
    whole = (base / "train" / "0003.jpg").read_bytes()
    (base / "train" / "0003.jpg").write_bytes(whole[:-9])
    (base / "val" / "0001.jpg").unlink()
    (base / "instances_fit.json").unlink()
    before = (base / "instances_held_out.json").read_bytes()
    report = prepare_dataset("iotkits_lt", str(root), source=str(source))
    assert (report.written, report.skipped, report.problems) == (3, 14, [])
    assert (base / "train" / "0003.jpg").read_bytes() == whole
    assert (base / "instances_held_out.json").read_bytes() == before
    # In its place already: without a source.
    report = prepare_dataset("iotkits_lt", str(root))
    assert (report.written, report.skipped) == (0, 17)


def _damage_image(source):
    path = source / "val" / "0002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    return path


def _resize_image(source):
    save_noise(source / "train" / "0004.jpg", 0, (32, 30))
    return "0004.jpg has size 32x30, but its annotations are of one of 32x24"


def _remove_image(source):
    (source / "train" / "0000.jpg").unlink()
    return f"0000.jpg: missing, but {source}/instances_train.json lists it"


def _rename_category(source):
    content = document("val")
    content["categories"][31]["name"] = "Abacus"
    write(source / "instances_val.json", content)
    return "instances_val.json: category 32 is 'Abacus', expected 'Arduino-leonardo'"


def _forget_polygon(source):
    content = document("train")
    del content["annotations"][4]["segmentation"]
    write(source / "instances_train.json", content)
    return "annotation 5 has no 'segmentation'"


def _leave_folder(source):
    content = document("train")
    content["images"][0]["file_name"] = "../0000.jpg"
    write(source / "instances_train.json", content)
    return "leads out of the folder of the images"


def _remove_annotations(source):
    (source / "instances_val.json").unlink()
    return "instances_val.json is missing; take the data set again"


@pytest.mark.parametrize(
    "damage",
    [
        _damage_image,
        _resize_image,
        _remove_image,
        _rename_category,
        _forget_polygon,
        _leave_folder,
        _remove_annotations,
    ],
)
def test_what_is_wrong_is_named_and_no_annotations_are_written(root, source, damage):
    expected = damage(source)
    (problem,) = prepare_dataset("iotkits_lt", str(root), source=str(source)).problems
    assert str(expected) in problem and "\n" not in problem
    assert not list(root.rglob("*.json"))


def test_what_cannot_be_begun_ends_in_one_line(root, source):
    assert run_tool("iotkits_lt").startswith(f"error: the source folder {root}/iotkits_lt is miss")
    assert "takes no --splits" in run_tool("iotkits_lt", "--source", source, "--splits", "val")
    assert "takes no --workers" in run_tool("iotkits_lt", "--source", source, "--workers", 2)
    with pytest.raises(FileNotFoundError, match="longtail prepare iotkits_lt"):
        DatasetCatalog.get("iotkits_lt_fit")


class TestHeldOut:
    def test_a_third_at_most_eight_in_the_order_of_the_seed(self):
        order = np.random.default_rng(0).permutation(14)
        for number, most in ((2, 0), (3, 1), (5, 1), (14, 4)):
            assert len(held_out_images([[0]] * number, [])) == most
        assert held_out_images([[0]] * 14, []).tolist() == sorted(order[:4].tolist())
        assert len(held_out_images([[0]] * 60, [])) == 8

    def test_of_every_class_in_an_image(self):
        # Class 1 has two images, so that none of them is held out, though class 0 has six.
        held = held_out_images([[0, 1], [0, 1], [0], [0], [0], [0]], [])
        assert len(held) == 2 and held.min() >= 2

    def test_twins_go_together_or_stay_together(self):
        for seed in range(20):
            held = {*held_out_images([[0]] * 9, [[0, 4], [1, 2, 3, 5]], seed).tolist()}
            assert {0, 4} <= held or not {0, 4} & held
            assert not {1, 2, 3, 5} & held  # four are more than a third of nine
            assert len(held) == 3
        both = [held_out_images([[0]] * 9, [[0, 4]], seed).tolist() for seed in range(20)]
        assert any(0 in held for held in both)

    def test_images_without_a_class_stay(self):
        assert held_out_images([[], [0], [0], [0], []], []).tolist() in ([1], [2], [3])
        assert held_out_images([[], []], []).tolist() == []


def test_near_twins_and_theirs_are_one_group():
    hashes = np.zeros((5, 256), bool)
    hashes[1, :30] = True  # 30 bits from the first
    hashes[2, :60] = True  # 60 from the first, 30 from the second
    hashes[3, 100:131] = True  # 31 from the first
    hashes[4, 200:] = True
    assert twin_groups(hashes) == [[0, 1, 2]]
