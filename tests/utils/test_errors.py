# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong, a program ends in one line."""

import os
import re
import subprocess
import sys
import tempfile

import pytest

from longtail.utils.errors import StoppedError, ending_in_one_line, one_line

BOMB = type("DecompressionBombError", (Exception,), {})
UNEXPECTED = [
    RuntimeError("shapes differ\nand here is\na page of hints"),
    AssertionError(),
    RecursionError("maximum recursion depth exceeded"),
    TypeError("unsupported operand"),
    AttributeError("'NoneType' object has no attribute 'x'"),
    IndexError("list index out of range"),
    KeyError("category_id"),
    ZeroDivisionError("division by zero"),
    BOMB("Image size (999 pixels) exceeds limit"),
]


def ended(error: BaseException, folder="", **options) -> SystemExit:
    with pytest.raises(SystemExit) as info, ending_in_one_line(folder, **options):
        raise error
    return info.value


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_a_mistake_in_the_code_is_one_line_and_a_file(tmp_path, error):
    line = ended(error, tmp_path).code
    path = tmp_path / "traceback.txt"
    assert line.startswith(f"error: {type(error).__name__}") and "\n" not in line
    assert str(path) in line and "hints" not in line
    text = path.read_text()
    assert text.startswith("Traceback") and "test_errors.py" in text


@pytest.mark.parametrize(
    "error",
    [ValueError("SOLVER.X: 3"), KeyError("no class 'cup'"), OSError("gone"), ImportError("scipy")],
)
def test_bad_input_is_one_line_without_a_file(tmp_path, error):
    assert ended(error, tmp_path).code == f"error: {error.args[0]}"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """The traceback goes to the temporary folder; without that the line still comes."""
    for folder in (tmp_path / "missing", "/proc/self"):
        line = ended(RuntimeError("x"), folder).code
        path = re.search(r"details: (.*)\)$", line)[1]
        assert path.startswith(tempfile.gettempdir())
        os.remove(path)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/proc/self")
    assert ended(RuntimeError("x"), "/proc/self").code.startswith("error: RuntimeError: x")


def test_codes(capsys):
    """Ctrl-C is 128 + SIGINT, a run that can be continued 128 + SIGTERM."""
    assert ended(KeyboardInterrupt(), interrupted="stopped: go on").code == 130
    assert capsys.readouterr().err.split("\n") == ["", "stopped: go on", ""]
    assert ended(StoppedError("the disk is full")).code == 143
    assert capsys.readouterr().err == "error: the disk is full\n"


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "IMS_PER_BATCH"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "IMS_PER_"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "IMS_PER_BATCH"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "NUM_WORKERS"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "NUM_WORKERS"),
        (RuntimeError("code: -98, name: EADDRINUSE, address already in use"), "port"),
        (RuntimeError("Connection closed by peer [127.0.0.1]:3"), "another process"),
    ],
)
def test_a_machine_at_its_limits_is_told_what_helps(tmp_path, error, part):
    line = ended(error, tmp_path).code
    assert part in line and "unexpected)" not in line and "\n" not in line


def test_an_error_of_a_worker_is_its_own_message():
    text = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most\n  File x\n"
    assert one_line(ValueError(f"{text}ValueError: a.png: no image\n")) == "a.png: no image"


def test_a_line_that_has_been_said_is_not_said_again():
    with pytest.raises(SystemExit) as info, ending_in_one_line(), ending_in_one_line():
        raise ValueError("x")
    assert info.value.code == "error: x"


@pytest.mark.parametrize("text", ["'x' * 1_000_000", "'x' * 80 + '\\n' * 1000"])
def test_who_has_read_enough_gets_no_error(text):
    """Whether the text is longer than a buffer or comes line by line."""
    code = (
        "from longtail.utils.errors import ending_in_one_line\n"
        "with ending_in_one_line():\n"
        "    input()\n"
        f"    for _ in range(100): print({text}, flush=True)\n"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
