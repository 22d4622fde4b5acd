# SPDX-License-Identifier: Apache-2.0
"""Install detectron2 0.6 where none is installed yet.

detectron2 does not have a release on the package index under its own name, but
``pb1-detectron2==0.6`` is a verbatim upload of its official 0.6 Python sources. This command takes
those sources, lets pip check their sha256 before anything in them is opened or run, changes what
current torch, numpy, Pillow and Python need changed (longtail/utils/detectron2_edits.py), builds a
wheel without the C++ extension and installs it. A detectron2 that is there already, 0.6 or a build
of main, is kept.

    longtail install-detectron2
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from longtail.utils.command_line import command_parser
from longtail.utils.detectron2_edits import OUR_VERSIONS, VERSION, edit_sources
from longtail.utils.errors import ending_in_one_line

SOURCE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"


class InstallError(OSError):
    """detectron2 cannot be installed; the message is one line that says what to do."""


# Runs in a fresh interpreter: exit code 3 = none, otherwise path, version and distribution version.
PROBE = """
import importlib.metadata, importlib.util, sys
if importlib.util.find_spec("detectron2") is None:
    sys.exit(3)
import detectron2.layers
print(detectron2.__file__, getattr(detectron2, "__version__", "of unknown version"), sep="\\n")
try:
    print(importlib.metadata.version("detectron2"))
except importlib.metadata.PackageNotFoundError:
    print("")
"""


def find_detectron2() -> tuple[str, str, str] | None:
    """Path, version and distribution version of the detectron2 that this interpreter imports.

    Returns:
        None without detectron2; the distribution version is empty if pip did not install it.

    Raises:
        InstallError: there is one, but importing its layers fails.
    """
    with tempfile.TemporaryDirectory() as empty:  # a folder of that name must not be picked up
        result = _run([sys.executable, "-c", PROBE], cwd=empty)
    if result.returncode == 3:
        return None
    if result.returncode != 0:
        raise InstallError(
            f"detectron2 is installed for {sys.executable}, but does not import "
            f"({_last_line(result.stderr)}); repair or uninstall it, then run this command again"
        )
    path, version, distribution = result.stdout.split("\n")[-4:-1]
    return path, version, distribution


def fetch_source(folder: Path) -> Path:
    """Download and unpack detectron2's sources with pip, which checks their sha256 first.

    pip's settings (index, mirror, proxy, certificates) apply as they do everywhere else.

    Args:
        folder: an empty folder to work in.

    Returns:
        the unpacked source tree, inside ``folder``.

    Raises:
        InstallError: no network, no such package, or another sha256.
    """
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{SOURCE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    # After unpacking, pip runs the sources' own setup.py for metadata that nobody needs. That may
    # fail (no torch yet; recent pips refuse one of its optional requirements), so success is
    # judged by the tree, which --no-clean leaves in the temporary folder.
    result = _pip(
        *("download", "--require-hashes", "--no-deps", "--no-binary", ":all:", "--no-clean"),
        *("--no-cache-dir", "--no-build-isolation", "--dest", str(folder / "archive")),
        *("--requirement", str(requirement)),
        temporary=unpacked,
    )
    trees = [path.parent.parent for path in unpacked.glob("*/*/detectron2/__init__.py")]
    if len(trees) == 1:
        return trees[0]
    output = result.stdout + result.stderr
    if "DO NOT MATCH THE HASHES" in output:
        raise InstallError(
            f"the {SOURCE} that the package index sent is not the official one: its sha256 is not "
            f"{SHA256}; nothing was installed, check pip's index settings"
        )
    if re.search(r"[Cc]onnect|timed out|resol|unreachable|Could not fetch URL", output):
        raise InstallError(
            f"cannot download {SOURCE}: the package index does not answer; check the network and "
            "pip's proxy settings, then run this command again"
        )
    if "No matching distribution" in output:
        raise InstallError(
            f"cannot download {SOURCE}: the package index has no such package; check pip's index "
            "settings, or install detectron2 yourself"
        )
    raise InstallError(f"cannot download {SOURCE}: {_last_line(output)}")


def build_wheel(tree: Path, folder: Path) -> Path:
    """Edit the sources in ``tree`` and build the wheel in ``folder``; returns its path."""
    try:
        edit_sources(tree)
    except ValueError as error:
        raise InstallError(str(error)) from error
    result = _pip(
        *("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(tree))
    )
    wheels = list(folder.glob("detectron2-*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise InstallError(
            f"the detectron2 wheel cannot be built ({_last_line(result.stdout + result.stderr)}); "
            "setuptools 70.1 or newer is needed: python -m pip install 'setuptools>=70.1'"
        )
    return wheels[0]


def install() -> str:
    """Make sure that detectron2 is there; returns the line that says what was done."""
    found = find_detectron2()
    if found is not None and not (found[2].startswith(OUR_VERSIONS) and found[2] != VERSION):
        return f"detectron2 {found[2] or found[1]} is already there and is used: {found[0]}"
    with tempfile.TemporaryDirectory(prefix="install_detectron2_") as name:
        folder = Path(name)
        wheel = build_wheel(fetch_source(folder), folder)
        # What it needs is in setup.py, and here already.
        result = _pip("install", "--no-deps", str(wheel))
        if result.returncode != 0:
            raise InstallError(f"the detectron2 wheel: {_last_line(result.stderr)}")
    found = find_detectron2()
    if found is None:
        raise InstallError(f"detectron2 was installed, but {sys.executable} does not find it")
    return f"installed detectron2 {found[2]}: {found[0]}"


def _pip(*arguments: str, temporary: Path | None = None) -> subprocess.CompletedProcess:
    return _run([sys.executable, "-m", "pip", "--no-input", *arguments], temporary=temporary)


def _run(
    command: list[str], cwd: str | None = None, temporary: Path | None = None
) -> subprocess.CompletedProcess:
    # pip's messages are read, so they must not be translated or coloured.
    environment = {**os.environ, "NO_COLOR": "1"}
    if temporary is not None:
        environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def _last_line(output: str) -> str:
    """The last error line of ``output``, or its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no message"])[-1].removeprefix("ERROR: ")


def build_parser() -> argparse.ArgumentParser:
    """The command line, without arguments."""
    return command_parser("install-detectron2", __doc__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    build_parser().parse_args(arguments)
    with ending_in_one_line():
        print(install())
