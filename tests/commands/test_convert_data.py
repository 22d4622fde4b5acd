# SPDX-License-Identifier: Apache-2.0
"""Converting annotations of other tools: the numbers by hand, and what strangers' files may do."""

import json

import numpy as np
import pytest
from PIL import Image

from longtail.commands.convert_data import main
from longtail.data.datasets.lvis import load_lvis_json
from longtail.data.formats.coco_json import read_coco_json
from tests.messages import assert_names

VOC = """<annotation><filename>elsewhere.jpg</filename>
<size><width>{width}</width><height>40</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def images(folder, *names, size=(40, 60)):
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), 120, np.uint8)).save(path)


def text(folder, name, content):
    path = folder / "labels" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def voc(name, *box, difficult=0):
    return OBJECT.format(name=name, box=box, difficult=difficult)


def convert(folder, kind, *more, output="out.json"):
    arguments = [kind, "--labels", str(folder / "labels"), "--output", str(folder / output)]
    if kind != "colors":
        arguments += ["--images", str(folder / "images")]
    main([*arguments, *more])


def test_voc(tmp_path, capsys):
    images(tmp_path, "a.jpg", "sub/b.png")
    objects = (
        voc("dog", 1, 1, 60, 40) + voc("cat", 11, 6, 20, 15) + voc("cat", 5, 5, 9, 9, difficult=1)
    )
    text(tmp_path, "a.xml", VOC.format(width=60, objects=objects + voc("cat", 70, 5, 80, 9)))
    text(
        tmp_path,
        "sub/b.xml",
        VOC.format(width=0, objects=voc("dog", 0, 0, 10, 10)).replace(">40<", ">0<"),
    )
    convert(tmp_path, "voc")
    content = read_coco_json(tmp_path / "out.json")
    assert [category["name"] for category in content.categories] == ["cat", "dog"]
    found = [(i["category_id"], i["bbox"], i["iscrowd"]) for i in content.annotations]
    # The first pixel is 1, and the last one is inside.
    assert found == [
        (2, [0, 0, 60, 40], 0),
        (1, [10, 5, 10, 10], 0),
        (1, [4, 4, 5, 5], 1),
        (2, [0, 0, 10, 10], 0),
    ]
    records = load_lvis_json(
        tmp_path / "out.json", tmp_path / "images", "converted_voc", find_images=True
    )
    assert [record["file_name"][-7:] for record in records] == ["s/a.jpg", "b/b.png"[-7:]]
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert ["cat", "1", "1"] in rows and ["dog", "2", "2"] in rows
    assert "1 of them difficult" in printed and "1 without area" in printed
    assert Image.open(tmp_path / "out.png").mode == "RGB"


def test_the_classes_of_another_split(tmp_path, capsys):
    images(tmp_path, "a.jpg")
    (tmp_path / "train.json").write_text(
        json.dumps({"categories": [{"name": "x"}, {"name": "dog"}]})
    )
    text(tmp_path, "a.xml", VOC.format(width=60, objects=voc("dog", 1, 1, 60, 40)))
    convert(tmp_path, "voc", "--classes", str(tmp_path / "train.json"))
    (item,) = read_coco_json(tmp_path / "out.json").annotations
    assert item["category_id"] == 2


def test_yolo(tmp_path):
    images(tmp_path, "a.jpg", "background.png")
    text(tmp_path, "classes.txt", "x\ny\n")
    text(tmp_path, "a.txt", "1 0.5 0.5 0.2 0.1\n\n0 0 0 0.5 0 0.5 0.5 0 0.5\n1 1.0 1.0 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: there\nnames: {0: cat, 1: dog}\n")
    convert(tmp_path, "yolo", "--classes", str(tmp_path / "data.yaml"))
    content = read_coco_json(tmp_path / "out.json")
    assert [image["file_name"] for image in content.images] == ["a.jpg", "background.png"]
    # The image is 60 wide and 40 high; the last box is half outside.
    boxes = [(i["category_id"], i["bbox"]) for i in content.annotations]
    assert boxes == [(2, [24, 18, 12, 4]), (1, [0, 0, 30, 20]), (2, [54, 36, 6, 4])]
    outlines = [i.get("segmentation") for i in content.annotations]
    assert outlines == [None, [[0, 0, 30, 0, 30, 20, 0, 20]], None]
    assert [item["area"] for item in content.annotations] == [48, 600, 24]


COLORS = "classes: {road: [128, 64, 128], car: '#0000c0'}\nignore: [[0, 0, 0]]\n"


@pytest.mark.parametrize("kind", ["RGB", "palette", "numbers"])
def test_label_maps_in_colors(tmp_path, capsys, kind):
    labels = np.array([[0, 1, 2, 2], [1, 1, 1, 1]], np.uint8)
    table = np.array([[128, 64, 128], [0, 0, 192], [0, 0, 0]], np.uint8)
    folder = tmp_path / "labels" / "aachen"
    folder.mkdir(parents=True)
    image = Image.fromarray(table[labels])
    if kind == "palette":
        # Other indices than those of the classes.
        image = Image.fromarray(labels + 3, mode="P")
        image.putpalette([9] * 9 + table.ravel().tolist())
    if kind == "numbers":
        image = Image.fromarray(np.array([7, 26, 0], np.uint8)[labels])
    image.save(folder / "a.png")
    text = "classes: {road: 7, car: 26}\nignore: [0]" if kind == "numbers" else COLORS
    (tmp_path / "c.yaml").write_text(text)
    convert(tmp_path, "colors", "--colors", str(tmp_path / "c.yaml"), output="out")
    written = np.array(Image.open(tmp_path / "out" / "aachen" / "a.png"))
    assert written.tolist() == [[0, 1, 255, 255], [1, 1, 1, 1]]
    assert (tmp_path / "out" / "classes.txt").read_text() == "road\ncar\n"
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["road", "1", "1"] in rows and ["car", "5", "1"] in rows
    assert (tmp_path / "out.png").is_file()


def refused(folder, kind, *more, output="out.json"):
    with pytest.raises(SystemExit) as end:
        convert(folder, kind, *more, output=output)
    assert not (folder / "out.json").exists()
    return str(end.value)


BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">
<!ENTITY c SYSTEM "file:///etc/hostname">]><annotation><object><name>&b;&c;</name></object></annotation>"""


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (BOMB, ["entities"]),
        ("<annotation><object>", ["not XML"]),
        ("", ["not XML"]),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', ["not XML"]),
        (VOC.format(width=61, objects=""), ["61x40", "60x40"]),
        (VOC.format(width=60, objects="<object><name>x</name></object>"), ["bndbox"]),
        (VOC.format(width=60, objects=voc("x", "a", 1, 2, 3)), ["xmin", "'a'"]),
        (VOC.format(width=60, objects=voc("x", "nan", 1, 2, 3)), ["xmin", "'nan'"]),
    ],
)
def test_bad_xml(tmp_path, content, parts):
    images(tmp_path, "a.jpg")
    text(tmp_path, "a.xml", content)
    assert_names(refused(tmp_path, "voc"), "a.", *parts)


@pytest.mark.parametrize(
    "line",
    ["0 0.5 0.5 0.1", "x 0.5 0.5 0.1 0.1", "2 0.5 0.5 0.1 0.1", "0 nan 0.5 0.1 0.1", "0 9 9 1 1"],
)
def test_bad_yolo(tmp_path, line):
    images(tmp_path, "a.jpg")
    text(tmp_path, "a.txt", f"1 0.5 0.5 0.1 0.1\n{line}\n")
    (tmp_path / "c.txt").write_text("x\ny\n")
    message = refused(tmp_path, "yolo", "--classes", str(tmp_path / "c.txt"))
    assert_names(message, "line 2")
    assert "a.txt" in message


def test_bad_colors(tmp_path):
    images(tmp_path, "a.png")
    (tmp_path / "images").rename(tmp_path / "labels")
    (tmp_path / "c.yaml").write_text(COLORS)
    message = refused(tmp_path, "colors", "--colors", str(tmp_path / "c.yaml"), output="out")
    assert "a.png" in message and "[120, 120, 120]" in message and "2400" in message
    for wrong in (
        "- a",
        "classes: {a: [1, 2]}",
        "classes: {a: [1, 2, 3], b: 7}",
        "classes: {}",
        "classes: {a: [1, 2, 3], b: '#010203'}",
    ):
        (tmp_path / "c.yaml").write_text(wrong)
        message = refused(tmp_path, "colors", "--colors", str(tmp_path / "c.yaml"), output="out")
        assert "--colors" in message


def test_what_is_missing(tmp_path):
    assert "labels does not exist" in refused(tmp_path, "voc")
    images(tmp_path, "b.jpg")
    text(tmp_path, "a.xml", VOC.format(width=60, objects=""))
    assert_names(refused(tmp_path, "voc"), "1 of 1")
    assert_names(refused(tmp_path, "voc", output="out.txt"), "--output", ".json")
    assert_names(refused(tmp_path, "yolo", "--classes", "nowhere.txt"), "--classes", "nowhere.txt")
