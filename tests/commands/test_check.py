# SPDX-License-Identifier: Apache-2.0
"""``longtail check``: what it finds in files that are made wrong here, and what it says."""

import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.commands.check import main
from longtail.data.datasets import checking, register_sem_seg
from longtail.data.datasets.register import replace_registration
from longtail.data.formats.header_findings import ERRORS, WARNINGS
from tests.data.pngs import PALETTE, RGB, huge_png, name_of, orientation_chunk, png
from tests.tiny import tiny_config

NAMES = ("test_check_a", "test_check_b")
GOOD = png([[1, 2, 0], [0, 0, 2]])
TALL = png([[1, 2], [0, 0], [2, 1]])


@pytest.fixture(autouse=True)
def free_names():
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in NAMES:
            if name in catalog:
                catalog.remove(name)


def make_set(folder, pairs, name=NAMES[0]):
    """Write (image, label) contents as 0.png, 1.png, ..., and register them."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number, (image, label) in enumerate(pairs):
        (folder / "images" / f"{number}.png").write_bytes(image)
        (folder / "labels" / f"{number}.png").write_bytes(label)
    register_sem_seg(name, folder / "images", folder / "labels", ["x", "y", "z"])


def run(capsys, *arguments):
    """The exit code, and the lines on standard output."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().out.splitlines()


def test_all_is_well(tmp_path, capsys):
    own = orientation_chunk(6)
    make_set(
        tmp_path,
        [
            (GOOD, GOOD),
            (png([[1] * 9] * 2, 8, RGB), png([[1, 2, 0], [0, 0, 2]], 8, PALETTE)),
            (png([[1, 2, 0], [0, 0, 2]], before=own), TALL),
            (png([[1, 2, 0], [0, 0, 2]], before=own), png([[1, 2, 0], [0, 0, 2]], before=own)),
        ],
    )
    code, lines = run(capsys, "--dataset", NAMES[0])
    assert code == 0
    assert lines == [f"{NAMES[0]}: 4 images, 4 label maps, 0 errors, 0 warnings"]


@pytest.mark.parametrize(
    ("image", "label", "kind", "message"),
    [
        (b"no image", GOOD, "unreadable", "images/0.png cannot be read as an image"),
        (GOOD, b"", "unreadable", "labels/0.png cannot be read as an image"),
        (png([[1, 2, 0]], 16), png([[1, 2, 0]]), "unsuitable", "images/0.png has mode I;16"),
        (GOOD, png([[1, 2, 0], [0, 0, 2]], 16), "unsuitable", "labels/0.png has mode I;16"),
        (GOOD, png([[1] * 9] * 2, 8, RGB), "unsuitable", "labels/0.png has mode RGB"),
        (huge_png(14000, 14000), GOOD, "unsuitable", "images/0.png has 196 megapixels"),
        (GOOD, TALL, "size", "labels/0.png has size 2x3, but its image 3x2 ("),
        (
            png([[1, 2, 0], [0, 0, 2]], before=orientation_chunk(6)),
            GOOD,
            "size",
            "labels/0.png has size 3x2, but its image 2x3, as its EXIF orientation 6",
        ),
        (
            png([[1, 2, 0], [0, 0, 2]], after=orientation_chunk(8)),
            GOOD,
            "size",
            "labels/0.png has size 3x2, but its image 2x3, as its EXIF orientation 8",
        ),
    ],
    ids=name_of,
)
def test_errors(tmp_path, capsys, image, label, kind, message):
    make_set(tmp_path, [(image, label)])
    code, lines = run(capsys, "--dataset", NAMES[0])
    assert code == 1
    assert lines[0].startswith(f"error: {tmp_path}/{message}")
    assert lines[1] == f"1 error: {kind} ({ERRORS[kind]})"
    assert lines[2:] == [f"{NAMES[0]}: 1 images, 1 label maps, 1 errors, 0 warnings"]


@pytest.mark.parametrize(
    ("image", "label", "kind"),
    [
        (GOOD, png([[1, 2, 0], [0, 0, 2]], 2), "few bits"),
        (GOOD, png([[1, 2, 0], [0, 0, 2]], 2, PALETTE, colors=[0] * 9 + [9] * 3), "grey palette"),
        (png([[1] * 9] * 2, 16, RGB), GOOD, "16 bits"),
        (png([[1, 2, 0], [0, 0, 2]], before=orientation_chunk(3)), GOOD, "turned"),
        (png([[1, 2], [0, 0]], before=orientation_chunk(6)), png([[1, 2], [0, 0]]), "turned"),
    ],
    ids=name_of,
)
def test_warnings_are_no_errors(tmp_path, capsys, image, label, kind):
    make_set(tmp_path, [(image, label)])
    code, lines = run(capsys, "--dataset", NAMES[0])
    assert code == 0
    assert lines[0].startswith(f"warning: {tmp_path}/")
    assert lines[1] == f"1 warning: {kind} ({WARNINGS[kind]})"
    assert lines[2] == f"{NAMES[0]}: 1 images, 1 label maps, 0 errors, 1 warnings"


def test_a_palette_whose_greys_are_its_indices_is_no_other(tmp_path, capsys):
    greys = [value for value in range(4) for _ in range(3)]
    make_set(tmp_path, [(GOOD, png([[1, 2, 0], [0, 0, 2]], 2, PALETTE, colors=greys))])
    assert run(capsys, "--dataset", NAMES[0])[0] == 0
    assert "0 warnings" in run(capsys, "--dataset", NAMES[0])[1][-1]


def test_annotations_of_the_stored_image(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(png([[1, 2, 0], [0, 0, 2]], before=orientation_chunk(6)))
    (tmp_path / "b.png").write_bytes(GOOD)
    records = [
        {"file_name": str(tmp_path / "a.png"), "height": 2, "width": 3},
        {"file_name": str(tmp_path / "b.png"), "height": 2, "width": 4},
        {"file_name": str(tmp_path / "a.png"), "height": 3, "width": 2},
        {"file_name": str(tmp_path / "c.png"), "height": 3, "width": 2},
    ]
    replace_registration(NAMES[0], lambda: records, {"thing_classes": ["x"]})
    code, lines = run(capsys, "--dataset", NAMES[0])
    assert code == 1
    assert lines[0].startswith(f"error: {tmp_path}/c.png is missing")
    assert lines[2].startswith(
        f"error: {tmp_path}/a.png has size 2x3, but its annotations are of one of 3x2, as it is "
        "before its EXIF orientation 6"
    )
    assert lines[3].startswith(f"error: {tmp_path}/b.png has size 3x2, but its annotations are of ")
    assert lines[-1] == f"{NAMES[0]}: 4 images, 0 label maps, 3 errors, 0 warnings"


def test_as_many_of_a_kind_as_asked_for(tmp_path, capsys):
    make_set(tmp_path, [(GOOD, TALL)] * 4 + [(b"", GOOD)])
    code, lines = run(capsys, "--dataset", NAMES[0], "--shown", 2)
    assert code == 1
    starts = [line.split(" ")[0] for line in lines[:-1]]
    assert starts == ["error:", "1", "error:", "error:", "4"]
    assert lines[-1].endswith("5 images, 5 label maps, 5 errors, 0 warnings")


def test_a_set_that_cannot_be_loaded_does_not_keep_others_from_being_checked(tmp_path, capsys):
    make_set(tmp_path / "a", [(GOOD, GOOD)])
    make_set(tmp_path / "b", [(GOOD, GOOD)], NAMES[1])
    shutil.rmtree(tmp_path / "a" / "labels")
    code, lines = run(capsys, "--dataset", *NAMES)
    assert code == 1
    assert lines[0].startswith(f"error: {NAMES[0]}: the folder {tmp_path}/a/labels is missing")
    assert lines[-1].endswith("1 images, 1 label maps, 1 errors, 0 warnings")


def test_the_sets_of_a_config(tmp_path, capsys):
    make_set(tmp_path / "a", [(GOOD, GOOD)])
    make_set(tmp_path / "b", [(GOOD, GOOD)] * 2, NAMES[1])
    config = tmp_path / "config.yaml"
    config.write_text(tiny_config(tmp_path).dump())
    sets = ["DATASETS.TRAIN", str(NAMES[:1]), "DATASETS.TEST", str(NAMES)]
    code, lines = run(capsys, "--config-file", config, *sets)
    assert code == 0
    assert lines[-1] == f"{', '.join(NAMES)}: 3 images, 3 label maps, 0 errors, 0 warnings"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name data sets with --dataset or --data, or a config with --config-file"),
        (["--dataset", "no_such_set"], "data set 'no_such_set' is not registered"),
        (["--dataset", "digits_lt_val", "--num-workers", "0"], "num_workers must be at least 1"),
        (["--dataset", "digits_lt_val", "--shown", "-1"], "shown at least 0"),
    ],
)
def test_bad_arguments(capsys, arguments, message):
    code, _ = run(capsys, *arguments)
    assert code.startswith("error: ") and message in code


def test_several_processes_find_what_one_finds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checking, "FEW", 2)
    make_set(tmp_path, [(GOOD, GOOD), (GOOD, TALL), (b"", GOOD), (GOOD, GOOD)])
    one = run(capsys, "--dataset", NAMES[0], "--num-workers", 1)
    assert run(capsys, "--dataset", NAMES[0], "--num-workers", 2) == one
    assert one[0] == 1 and len(one[1]) == 5


def test_no_pixel_is_decoded(tmp_path, capsys):
    """A PNG that is cut off behind its header, and a JPEG without its pixels."""
    make_set(tmp_path, [(GOOD[:-20], GOOD[:-20])])
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "images" / "1.jpg")
    content = (tmp_path / "images" / "1.jpg").read_bytes()
    (tmp_path / "images" / "1.jpg").write_bytes(content[:-8])
    (tmp_path / "labels" / "1.png").write_bytes(GOOD)
    code, lines = run(capsys, "--dataset", NAMES[0])
    assert code == 0
    assert lines[-1].endswith("2 images, 2 label maps, 0 errors, 0 warnings")
