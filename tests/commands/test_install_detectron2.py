# SPDX-License-Identifier: Apache-2.0
"""longtail install-detectron2 without a network: pip is pointed at folders that the tests make."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from longtail.utils import detectron2_edits
from tests.messages import raises_naming

COMMAND = [sys.executable, "-m", "longtail", "install-detectron2"]


def run_tool(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess:
    """The command, in a process that sees only what ``environment`` shows it of pip's settings."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(tmp_path), **environment}
    return subprocess.run(COMMAND, env=settings, capture_output=True, text=True, timeout=120)


def write_package(folder: Path, name: str, body: str = "") -> None:
    """A package ``name`` in ``folder`` whose __init__.py is ``body``."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(body, encoding="utf-8")


@pytest.fixture
def no_detectron2(tmp_path: Path) -> str:
    """A PYTHONPATH under which detectron2 is not found, whether it is installed or not."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'detectron2' else find(name, *a)\n",
        encoding="utf-8",
    )
    return str(hidden)


def assert_one_clear_line(result: subprocess.CompletedProcess, *words: str) -> None:
    """Exit code 1, nothing on stdout, one line on stderr that has all ``words``."""
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


def test_an_installed_detectron2_is_used(tmp_path: Path) -> None:
    write_package(tmp_path / "site", "detectron2", "__version__ = '0.6 of mine'\n")
    write_package(tmp_path / "site" / "detectron2", "layers")
    result = run_tool(tmp_path, PYTHONPATH=str(tmp_path / "site"), PIP_NO_INDEX="1")
    assert result.returncode == 0, result.stderr
    assert "already there" in result.stdout
    assert str(tmp_path / "site" / "detectron2") in result.stdout


def test_a_broken_detectron2_is_named_and_left_alone(tmp_path: Path) -> None:
    write_package(tmp_path / "site", "detectron2")
    write_package(tmp_path / "site" / "detectron2", "layers", "import a_missing_module\n")
    result = run_tool(tmp_path, PYTHONPATH=str(tmp_path / "site"), PIP_NO_INDEX="1")
    assert_one_clear_line(result, "does not import", "a_missing_module", "uninstall")


def test_another_sha256_is_refused_before_the_code_runs(tmp_path: Path, no_detectron2: str) -> None:
    source = tmp_path / "pb1-detectron2-0.6"
    write_package(source, "detectron2")
    trace = tmp_path / "setup_was_run"
    (source / "setup.py").write_text(f"open({str(trace)!r}, 'w').close()\n", encoding="utf-8")
    with tarfile.open(tmp_path / "pb1-detectron2-0.6.tar.gz", "w:gz") as archive:
        archive.add(source, arcname=source.name)
    result = run_tool(
        tmp_path, PYTHONPATH=no_detectron2, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path)
    )
    assert_one_clear_line(result, "sha256", "5d2e9e51e523ec72", "nothing was installed")
    assert not trace.exists()
    assert not list(tmp_path.glob("install_detectron2_*"))


def test_a_package_that_the_index_lacks_is_named(tmp_path: Path, no_detectron2: str) -> None:
    result = run_tool(
        tmp_path, PYTHONPATH=no_detectron2, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path)
    )
    assert_one_clear_line(result, "pb1-detectron2==0.6", "has no such package")


def test_an_index_that_does_not_answer_is_named(tmp_path: Path, no_detectron2: str) -> None:
    result = run_tool(  # nothing listens on port 9 of this machine
        tmp_path, PYTHONPATH=no_detectron2, PIP_INDEX_URL="http://127.0.0.1:9", PIP_RETRIES="1"
    )
    assert_one_clear_line(result, "pb1-detectron2==0.6", "does not answer", "network")


def test_arguments_are_refused() -> None:
    result = subprocess.run([*COMMAND, "--force"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "error: unrecognized arguments: --force" in result.stderr


def test_edits_are_applied(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.py"
    file.parent.mkdir()
    file.write_text("x = old(1)\ny = old(2)\n", encoding="utf-8")
    detectron2_edits.apply_edits(tmp_path, (detectron2_edits.Edit("a/b.py", "old(", "new(", 2),))
    assert file.read_text(encoding="utf-8") == "x = new(1)\ny = new(2)\n"


@pytest.mark.parametrize("text", ["nothing here\n", "old(1)\nold(2)\n", None])
def test_an_edit_that_does_not_fit_names_the_file(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "b.py").write_text(text, encoding="utf-8")
    edit = detectron2_edits.Edit("b.py", "old(", "new(")
    with raises_naming(ValueError, "b.py", "'old('", "1 time"):
        detectron2_edits.apply_edits(tmp_path, (edit,))
    if text is not None:
        assert (tmp_path / "b.py").read_text(encoding="utf-8") == text


def test_only_the_removed_numpy_names_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "c.py"
    file.write_text("np.int np.int64 np.bool_ np.bool np.str, np.float) np.float32\n", "utf-8")
    detectron2_edits.replace_numpy_aliases(tmp_path, 4)
    expected = "int np.int64 np.bool_ bool str, float) np.float32\n"
    assert file.read_text(encoding="utf-8") == expected
    with raises_naming(ValueError, "numpy", "4", "0"):
        detectron2_edits.replace_numpy_aliases(tmp_path, 4)


def test_the_missing_extension_explains_itself() -> None:
    # Not the compiled module: the name of the package is changed, so that it cannot be found.
    source = detectron2_edits.EXTENSION_SOURCE.replace("from detectron2 ", "from missing_package ")
    namespace: dict = {}
    exec(source, namespace)
    assert namespace["HAS_EXTENSION"] is False
    with raises_naming(RuntimeError, "detectron2._C.box_iou_rotated", "build"):
        namespace["_C"].box_iou_rotated(None, None)
