# SPDX-License-Identifier: Apache-2.0
"""Files are whole or absent, and a full disk is named, whoever writes."""

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from disalign.roi_cache import write_shard
from PIL import Image

from longtail.engine.checkpoint import Checkpointer
from longtail.modeling.roi_heads import RoIs
from longtail.utils import io
from longtail.utils.io import atomic_write, write_json
from tests.messages import raises_naming

NOISE = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("moment", ["write", "fsync"])
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path, monkeypatch, number, moment):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def fails(*_):
        raise OSError(number, os.strerror(number))

    if moment == "fsync":
        monkeypatch.setattr(os, "fsync", fails)
    parts = (str(path), os.strerror(number), "make room")
    with raises_naming(OSError, *parts) as info, atomic_write(path) as file:
        file.write("a" * 100)
        if moment == "write":
            fails()
    assert info.value.errno == number
    assert (os.listdir(tmp_path), path.read_text()) == (["file.txt"], "before")


def test_torch_hides_the_full_disk(tmp_path):
    """Its zip files end in an error of their own, while the system's is handled."""
    path = tmp_path / "x.pth"
    with raises_naming(OSError, str(path), "0.0 MB", "free"), atomic_write(path, "wb"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904
    assert os.listdir(tmp_path) == []


def test_another_error_is_what_it_was(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), atomic_write(tmp_path / "x"):
        raise RuntimeError("mine")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError:
        done = None
    if done is None or done.returncode:
        pytest.skip("a file system may not be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _picture(path: Path) -> None:
    with atomic_write(path, "wb") as file:
        Image.fromarray(NOISE).save(file, format="PNG")


def _torchscript(path: Path) -> None:
    with atomic_write(path, "wb") as file:
        torch.jit.save(torch.jit.script(torch.nn.Linear(1000, 1000)), file)


WRITERS = {
    "checkpoint": lambda path: Checkpointer(torch.nn.Linear(1000, 1000), path.parent).save("file"),
    "cache": lambda path: write_shard(
        path, [[RoIs(torch.zeros(300, 1000), torch.zeros(300, dtype=torch.int64))]]
    ),
    "report": lambda path: write_json(path, ["x" * 100] * 20000),
    "picture": _picture,
    "TorchScript": _torchscript,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_on_a_disk_that_is_full(small_disk, writer):
    path = small_disk / "file.pth"
    with raises_naming(OSError, str(path), "No space left on device", "make room"):
        WRITERS[writer](path)
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_not_blamed_on_the_temporary_file(
    tmp_path, monkeypatch, number
):
    def refuse(path, *arguments, **options):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(io, "open", refuse, raising=False)
    with (
        pytest.raises(OSError, match="name another path") as raised,
        atomic_write(tmp_path / "report.html"),
    ):
        pass
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "report.html"))
    monkeypatch.undo()
    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(OSError, match="name another path") as raised,
        atomic_write(tmp_path / "new" / "report.html"),
    ):
        pass
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "new"))


def test_what_is_no_file_is_not_replaced(tmp_path):
    """As the system's administrator could do with /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with raises_naming(OSError, str(tmp_path / name)), atomic_write(tmp_path / name) as file:
            file.write("a")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "folder").is_dir()
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]
