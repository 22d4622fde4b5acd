# SPDX-License-Identifier: Apache-2.0
"""longtail prepare lvis: what is missing or damaged, and where it belongs."""

import pytest

from longtail.data.prepare import prepare_dataset
from tests.data.lvis_documents import annotation, official_document, write
from tests.data.sources import files_under, run_tool, save_image


def make_lvis(root):
    for version in ("v1", "v0.5"):
        for split in ("train", "val"):
            document = official_document(version)
            if split == "train" or version == "v0.5":
                folder = "train2017" if split == "train" else "val2017"
                for image in document["images"]:
                    image["coco_url"] = image["coco_url"].replace(
                        image["coco_url"].split("/")[-2], folder
                    )
            write(root / "lvis" / f"lvis_{version}_{split}.json", document)
    for number in (7, 8, 9):
        for folder in ("train2017", "val2017"):
            save_image(root / "coco" / folder / f"{number:012d}.jpg")


def test_everything_is_missing_at_first(root, capsys):
    assert run_tool("lvis") == 1
    problems = [line for line in capsys.readouterr().err.splitlines() if "problem: " in line]
    for name in ("v1_train", "v1_val", "v0.5_train", "v0.5_val"):
        path = root / "lvis" / f"lvis_{name}.json"
        (line,) = [line for line in problems if f"{path}: missing" in line]
        assert "lvisdataset.org" in line
    for folder in ("train2017", "val2017"):
        path = root / "coco" / folder
        assert f"problem: {path}: missing; unpack COCO's {folder}.zip there" in problems
    assert len(problems) == 6


def test_what_is_whole_is_left_as_it_is(root, capsys):
    make_lvis(root)
    before = set(files_under(root))
    assert run_tool("lvis") == 0
    assert "lvis: 0 written, 4 skipped (up to date), 0 problems" in capsys.readouterr().out
    assert set(files_under(root)) == before


def test_splits_leave_the_others_out(root):
    make_lvis(root)
    (root / "lvis" / "lvis_v0.5_train.json").unlink()
    assert run_tool("lvis", "--splits", "v1_train", "v1_val") == 0
    assert run_tool("lvis") == 1
    assert run_tool("lvis", "--splits", "v2").startswith("error: lvis has no split 'v2', only v1_")
    assert run_tool("lvis", "--source", "x").startswith("error: lvis has no source to convert")


def test_a_test_split_needs_no_annotations_others_do(root):
    make_lvis(root)
    document = official_document("v1")
    del document["annotations"]
    for image in document["images"]:
        image["coco_url"] = f"http://x/test2017/{image['id']}.jpg"
        save_image(root / "coco" / "test2017" / f"{image['id']}.jpg")
    write(root / "lvis" / "lvis_v1_image_info_test_dev.json", document)
    assert prepare_dataset("lvis", str(root), splits=["v1_test_dev"]).problems == []
    write(root / "lvis" / "lvis_v1_val.json", document)
    (problem,) = prepare_dataset("lvis", str(root), splits=["v1_val"]).problems
    assert problem.startswith(f"{root}/lvis/lvis_v1_val.json: no annotations; take it again")


def _truncate(path, root):
    path.write_bytes(path.read_bytes()[:-100])


def _other_version(path, root):
    write(path, official_document("v0.5"))


def _unknown_image(path, root):
    document = official_document("v1")
    document["annotations"].append(annotation(99, 5, 1))
    write(path, document)


def _lost_image(path, root):
    (root / "coco" / "val2017" / "000000000007.jpg").unlink()


def _no_images(path, root):
    write(path, {**official_document("v1"), "images": [], "annotations": []})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "lvis_v1_val.json is cut short"),
        (_other_version, "1230 categories, but the data set is registered with 1203"),
        (_unknown_image, "annotation 99 has the unknown image_id 5"),
        (_no_images, "lvis_v1_val.json: no images; take it again"),
        (_lost_image, "val2017: lacks images of lvis_v1_val, such as 000000000007.jpg; unpack"),
    ],
)
def test_damage_is_one_problem_in_one_line(root, damage, message):
    make_lvis(root)
    damage(root / "lvis" / "lvis_v1_val.json", root)
    report = prepare_dataset("lvis", str(root), splits=["v1_train", "v1_val"])
    (problem,) = report.problems
    assert message in problem and "\n" not in problem
    assert report.skipped == 1
