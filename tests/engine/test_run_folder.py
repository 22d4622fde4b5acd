# SPDX-License-Identifier: Apache-2.0
"""One run a folder, and the newest checkpoint that is whole."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest
import torch

from longtail.engine.run_folder import checkpoints, damage, newest_whole_checkpoint, run_folder
from longtail.utils.io import atomic_write


def write(folder, *names, tag=None):
    for name in names:
        torch.save({"model": {"w": torch.arange(999.0)}}, folder / name)
    if tag is not None:
        (folder / "last_checkpoint").write_text(tag)


FLAWS = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "a flipped byte": lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
    "text": lambda content: b"not a checkpoint",
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, caplog, flaw):
    write(tmp_path, "model_0000003.pth", "model_0000007.pth", tag="model_0000007.pth")
    newest = tmp_path / "model_0000007.pth"
    assert newest_whole_checkpoint(tmp_path) == newest and damage(newest) is None
    newest.write_bytes(FLAWS[flaw](newest.read_bytes()))
    assert damage(newest)
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "model_0000003.pth"
    assert "model_0000007.pth" in caplog.text


def test_a_flipped_bit_anywhere_is_damage_or_does_not_matter(tmp_path):
    """Also in the zip file's own headers, which no checksum covers."""
    expected = {"model": {"w": torch.arange(4.0)}}
    path = tmp_path / "model_0000003.pth"
    torch.save(expected, path)
    content = path.read_bytes()
    noticed = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        if damage(path):
            noticed += 1
        else:
            loaded = torch.load(path, weights_only=True)
            assert torch.equal(loaded["model"]["w"], expected["model"]["w"]), place
    assert noticed > len(content) / 4


def test_what_a_run_without_checkpoint_has_left_is_removed(tmp_path, caplog):
    names = ("metrics.json", "last_evaluation.json", "model_best.pth", "log.txt")
    for resume in (True, False):
        for name in names:
            (tmp_path / name).write_text("old")
        with run_folder(tmp_path, resume=resume):
            assert {p.name for p in tmp_path.iterdir()} == {".lock", *names[2:]}
    assert "no checkpoint" in caplog.text
    write(tmp_path, "model_0000003.pth")
    (tmp_path / "metrics.json").write_text("kept")
    with run_folder(tmp_path, resume=True):
        assert (tmp_path / "metrics.json").read_text() == "kept"


def test_file_systems_without_locks(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with run_folder(tmp_path):
        assert "cannot be locked" in caplog.text


def test_an_extended_run_is_newer_than_its_first_end(tmp_path):
    write(tmp_path, "model_0000003.pth", "model_final.pth", "model_0000007.pth")
    for age, name in enumerate(("model_0000007.pth", "model_final.pth", "model_0000003.pth")):
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    found = [path.name for path in checkpoints(tmp_path)]
    assert found == ["model_0000007.pth", "model_final.pth", "model_0000003.pth"]


def test_without_a_tag_the_newest_is_taken(tmp_path):
    assert newest_whole_checkpoint(tmp_path) is None
    write(tmp_path, "model_0000003.pth", "model_0000007.pth", "model_best.pth", "other.pth")
    assert newest_whole_checkpoint(tmp_path).name == "model_0000007.pth"
    write(tmp_path, "model_final.pth")
    assert newest_whole_checkpoint(tmp_path).name == "model_final.pth"


def test_the_tag_decides(tmp_path):
    """A longer run of before has left a newer one."""
    write(tmp_path, "model_0000003.pth", "model_final.pth", tag="model_0000003.pth")
    assert newest_whole_checkpoint(tmp_path).name == "model_0000003.pth"
    # It names a file in the folder, whatever it says.
    (tmp_path / "last_checkpoint").write_text("../../model_0000003.pth")
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "model_0000003.pth"
    (tmp_path / "last_checkpoint").write_text("gone.pth")
    assert newest_whole_checkpoint(tmp_path).name == "model_final.pth"


def test_nothing_whole_is_an_error(tmp_path):
    write(tmp_path, "model_0000003.pth", "model_0000007.pth")
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(ValueError) as raised:
        newest_whole_checkpoint(tmp_path)
    parts = ("--resume", str(tmp_path), "model_0000003.pth", "model_0000007.pth", "--overwrite")
    assert all(part in str(raised.value) for part in parts)


def test_a_run_is_not_overwritten_by_accident(tmp_path):
    write(tmp_path, "model_0000003.pth", tag="model_0000003.pth")
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError) as raised, run_folder(tmp_path):
        pass
    assert all(part in str(raised.value) for part in ("OUTPUT_DIR", "--resume", "--overwrite"))
    with run_folder(tmp_path, resume=True):
        assert (tmp_path / "model_0000003.pth").is_file()
    (tmp_path / "log.txt").write_text("kept")
    with run_folder(tmp_path, overwrite=True):
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {".lock", "log.txt"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_weights_that_a_run_starts_from_are_not_in_its_folder(tmp_path, overwrite):
    write(tmp_path, "model_final.pth")
    weights = str(tmp_path / "." / "model_final.pth")
    with (
        pytest.raises(ValueError, match=r"MODEL\.WEIGHTS"),
        run_folder(tmp_path, weights=weights, overwrite=overwrite),
    ):
        pass
    assert (tmp_path / "model_final.pth").is_file()


LOCKING = """
import sys, time
from longtail.engine.run_folder import run_folder
with run_folder(sys.argv[1]):
    print("owned", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time(tmp_path):
    command = [sys.executable, "-c", LOCKING, str(tmp_path)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "owned\n"
        with pytest.raises(ValueError) as raised, run_folder(tmp_path):
            pass
        assert "OUTPUT_DIR" in str(raised.value) and str(other.pid) in str(raised.value)
    finally:
        other.kill()
        other.wait()
    # A killed process owns nothing.
    with run_folder(tmp_path):
        pass


def test_what_killed_writers_have_left_is_removed(tmp_path):
    (tmp_path / "inference").mkdir()
    left = []
    for folder in (tmp_path, tmp_path / "inference"):
        with pytest.raises(KeyboardInterrupt), atomic_write(folder / "a.json") as file:
            name = file.name
            raise KeyboardInterrupt
        assert not os.path.exists(name)
        # As after SIGKILL.
        with open(name, "w") as file:
            file.write("half")
        left.append(name)
    other = tmp_path / ".notes.tmp"
    other.write_text("of the user")
    with run_folder(tmp_path):
        assert not any(map(os.path.exists, left)) and other.is_file()
