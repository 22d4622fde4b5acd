# SPDX-License-Identifier: Apache-2.0
"""Commands that several processes share: they find, write and say what one does alone."""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail.commands import check, predict, prepare
from longtail.commands import main as longtail_main
from longtail.data.datasets import checking, register_sem_seg
from longtail.data.formats.header_findings import Files, Finding
from longtail.data.formats.sources import Source
from longtail.data.prepare import runner
from longtail.engine.inference import predicting, prediction_files
from longtail.utils.distributed import from_main_process
from tests.messages import raises_naming
from tests.processes import run_in_two_processes
from tests.trained_runs import make_run, write_pictures

COUNT = 7
# One each: what a test declares in this process stays declared, with its folder.
DATA = {
    "check": "shared_work: {kind: sem_seg, images: images, labels: labels, classes: [a, b, c]}",
    "class-statistics": "good_work: "
    "{kind: sem_seg, images: good_images, labels: good_labels, classes: [a, b, c]}",
}


def write_pairs(images: Path, labels: Path, sizes: list[tuple[int, int]]) -> None:
    """Write 0.png, 1.png, ...: images of 6 x 4, and label maps of these sizes."""
    for folder in (images, labels):
        folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 3, (COUNT, 6, 6), dtype=np.uint8)
    for number, (height, width) in enumerate(sizes):
        Image.fromarray(np.stack([pixels[number, :4]] * 3, -1)).save(images / f"{number}.png")
        Image.fromarray(pixels[number, :height, :width]).save(labels / f"{number}.png")


@contextlib.contextmanager
def printing_into(path: Path):
    """Write what is printed on standard output into a file."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    path.write_text(printed.getvalue())


def noted(function, path: Path, name_of):
    """The function, which notes what it is called with."""

    def call(item, *rest):
        with open(path, "a") as notes:
            notes.write(f"{name_of(item)}\n")
        return function(item, *rest)

    return call


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def contents(folder: Path, name: str) -> list[str]:
    return [(folder / f"{name}{rank}").read_text() for rank in (0, 1)]


# Of the second process's part (1, 3, 5) and of the first one's, an error each.
SIZES = [(4, 6)] * 3 + [(4, 5)] + [(3, 6)] + [(4, 6)] * 2


def checking_process(rank: int, folder: Path) -> None:
    register_sem_seg("shared_work", folder / "images", folder / "labels", ["a", "b", "c"])
    original = checking.check_files
    checking.check_files = noted(original, folder / f"reads{rank}", lambda f: Path(f.image).stem)
    options = check.build_parser().parse_args(["--dataset", "shared_work", "--num-workers", "1"])
    with printing_into(folder / f"printed{rank}"):
        report = from_main_process(lambda: check.check(options))
    (folder / f"errors{rank}").write_text(str(report.errors))


def other_disk_checking_process(rank: int, folder: Path) -> None:
    """The second process does not see 3.png and 5.png."""
    original = checking.check_files

    def see(files: Files) -> list[Finding]:
        lacks = rank and Path(files.image).stem in ("3", "5")
        return [Finding("missing", f"{files.image} is missing")] if lacks else original(files)

    checking.check_files = see
    checking_process(rank, folder)


@pytest.mark.parametrize("process", [checking_process, other_disk_checking_process])
def test_check(tmp_path, process):
    write_pairs(tmp_path / "images", tmp_path / "labels", SIZES)
    run_in_two_processes(process, tmp_path)
    printed = contents(tmp_path, "printed")
    assert printed[1] == ""
    lines = printed[0].splitlines()
    assert "labels/3.png has size 5x4" in lines[0] and "labels/4.png has size 6x3" in lines[1]
    assert lines[2].startswith("2 errors: size")
    assert lines[3] == "shared_work: 7 images, 7 label maps, 2 errors, 0 warnings"
    assert contents(tmp_path, "errors") == ["2", "2"]
    reads = [text.split() for text in contents(tmp_path, "reads")]
    assert reads[1] == ["1", "3", "5"]
    # Who lacks files leaves those, and no other, to the main process.
    own = ["0", "2", "4", "6"]
    assert reads[0] == (own if process is checking_process else [*own, "3", "5"])


def write_camvid(folder: Path) -> None:
    # No label map of the fourth image, and one of the fifth that does not fit.
    for split in ("train", "val"):
        sizes = [(4, 6)] * 4 + [(4, 5)]
        write_pairs(folder / split, folder / f"{split}annot", sizes)
    (folder / "trainannot" / "3.png").unlink()


def preparing(folder: Path, root: Path, printed: Path) -> argparse.Namespace:
    os.environ["DETECTRON2_DATASETS"] = str(root)
    options = prepare.build_parser().parse_args(["camvid", "--source", str(folder / "source")])
    with printing_into(printed):
        return from_main_process(lambda: prepare.prepare(options))


def preparing_process(rank: int, folder: Path) -> None:
    runner.convert_pair = noted(
        runner.convert_pair, folder / f"reads{rank}", lambda pair: Path(pair.label).stem
    )
    report = preparing(folder, folder / "two", folder / f"printed{rank}")
    (folder / f"report{rank}").write_text(str(report))


def other_disk_preparing_process(rank: int, folder: Path) -> None:
    """The second process writes elsewhere; here is what an older source became."""
    if rank:
        runner.convert_pair = lambda pair, recipe: True
    else:
        for name in files_below(folder / "one"):
            (folder / "two" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "two" / name).write_bytes(b"of an older source")
            os.utime(folder / "two" / name, (1, 1))
    preparing_process(rank, folder)


@pytest.mark.parametrize("process", [preparing_process, other_disk_preparing_process])
def test_prepare(tmp_path, monkeypatch, process):
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    write_camvid(tmp_path / "source")
    report = preparing(tmp_path, tmp_path / "one", tmp_path / "alone")
    assert (report.written, len(report.problems)) == (7, 3)
    run_in_two_processes(process, tmp_path)
    one, two = files_below(tmp_path / "one"), files_below(tmp_path / "two")
    assert len(one) == 14 and one == two
    alone, printed = (tmp_path / "alone").read_text(), contents(tmp_path, "printed")
    assert printed == [alone.replace(str(tmp_path / "one"), str(tmp_path / "two")), ""]
    reports = contents(tmp_path, "report")
    if process is preparing_process:
        assert reports == [str(report)] * 2
        # 0, 1, 2, 4 of the first split, then 0 to 4 of the second, dealt out; threads mix them.
        reads = [sorted(text.split()) for text in contents(tmp_path, "reads")]
        assert reads == [["0", "0", "2", "2", "4"], ["1", "1", "3", "4"]]


def test_a_picture_that_other_machines_lack_is_left_to_the_main_process(tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "check_record_is_here", lambda output: None)
    monkeypatch.setattr(predicting.comm, "is_main_process", lambda: False)
    wanted = argparse.Namespace(output="")
    jobs = [[Source("a", str(tmp_path / "a.png"), "a.png")]]
    with raises_naming(FileNotFoundError, str(tmp_path / "a.png"), "missing on this machine"):
        predicting._predict_share(jobs, choice=None, wanted=wanted, processes=1)


PICTURES = {f"{number}.png": (32, 32 + 8 * (number % 2)) for number in range(COUNT)}


def predict_options(folder: Path, output: str, *more: str) -> list[str]:
    """Of the run that the file ``run`` names."""
    run = (folder / "run").read_text()
    return [run, str(folder / "photos"), "--output", str(folder / output), *more]


def predicting_process(rank: int, folder: Path) -> None:
    def called(output: str, *more: str) -> int:
        return predict.predict(
            predict.build_parser().parse_args(predict_options(folder, output, *more))
        )

    predicting.Worker.run, original = (
        (
            lambda worker, sources: (
                names.append([s.name for s in sources]) or original(worker, sources)
            )
        ),
        predicting.Worker.run,
    )
    names = []
    with printing_into(folder / f"printed{rank}"):
        failed = called("two", "--batch-size", "2")
    found = {"names": names, "failed": failed}
    # The second sees another disk; and each would start as many again.
    if rank:
        prediction_files.RECORD = "of_another_disk.json"
    for name, arguments in {"apart": ["apart"], "again": ["x", "--processes", "2"]}.items():
        try:
            called(*arguments)
        except ValueError as error:
            found[name] = str(error)
    (folder / f"found{rank}").write_text(json.dumps(found))


@pytest.mark.parametrize("run", ["images", pytest.param("masks", marks=pytest.mark.slow)])
def test_predict(tmp_path, capsys, run):
    write_pictures(tmp_path / "photos", PICTURES)
    (tmp_path / "photos" / "3.png").write_bytes(b"no image")
    (tmp_path / "run").write_text(str(make_run(run, tmp_path / "made")))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        predict.main(predict_options(tmp_path, "one", "--batch-size", "2"))
    alone = capsys.readouterr().out
    run_in_two_processes(predicting_process, tmp_path)
    one, two = files_below(tmp_path / "one"), files_below(tmp_path / "two")
    assert len(one) == COUNT - 1 + 2 and one == two
    printed = contents(tmp_path, "printed")
    assert printed == [alone.replace(str(tmp_path / "one"), str(tmp_path / "two")), ""]
    found = [json.loads(text) for text in contents(tmp_path, "found")]
    batches = [[["0", "1"], ["4", "5"]], [["2", "3"], ["6"]]]
    for rank, names in enumerate(batches):
        assert found[rank]["names"][:2] == names
        assert found[rank]["failed"] == 1
        assert f"does not see {tmp_path}/apart of the main process" in found[rank]["apart"]
        assert "--processes 2: 2 processes" in found[rank]["again"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check", "class-statistics", "prepare", "predict", "error"])
def test_commands_of_torchrun(tmp_path, monkeypatch, capsys, name):
    """As a user starts them: one report, one line for an error, one exit code."""
    arguments, code = {
        "check": (["check", "--data", "data.yaml", "--dataset", "shared_work"], 1),
        "class-statistics": (
            ["class-statistics", "--data", "data.yaml", "--dataset", "good_work"],
            0,
        ),
        "prepare": (["prepare", "camvid", "--source", "source"], 1),
        "predict": (["predict", "made/output", "photos", "--output", "out"], 0),
        "error": (["check", "--dataset", "no_such_set"], 1),
    }[name]
    write_pairs(tmp_path / "images", tmp_path / "labels", SIZES)
    write_pairs(tmp_path / "good_images", tmp_path / "good_labels", [(4, 6)] * COUNT)
    (tmp_path / "data.yaml").write_text(DATA.get(name, ""))
    write_camvid(tmp_path / "source")
    if name == "predict":
        write_pictures(tmp_path / "photos", PICTURES)
        make_run("images", tmp_path / "made")
    kept = {
        where: {"DETECTRON2_DATASETS": where, "LONGTAIL_CACHE": f"{where}/cache"}
        for where in ("one", "two")
    }
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = subprocess.run(
        [sys.executable, *torchrun, "-m", "longtail", *arguments],
        cwd=tmp_path,
        env={**os.environ, **kept["two"]},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert two.returncode == code, two.stderr
    if name == "predict":
        (tmp_path / "out").rename(tmp_path / "two")
    for key, value in kept["one"].items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    end = ""
    try:
        longtail_main(arguments)
    except SystemExit as error:
        end = str(error)
    if name == "predict":
        (tmp_path / "out").rename(tmp_path / "one")
    assert two.stdout.replace("/two", "/one").replace("two/", "one/") == capsys.readouterr().out
    errors = [line for line in two.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ([end] if name == "error" else [])
    written = [files_below(tmp_path / where) for where in ("one", "two")]
    assert written[0] == written[1] and bool(written[0]) == (name not in ("check", "error"))
