# SPDX-License-Identifier: Apache-2.0
"""Run the notebooks of tutorials/ anew and store their outputs.

    python tools/run_tutorials.py                # all, about four minutes on one core
    python tools/run_tutorials.py extending      # one

Each is run as in a checkout, but in a folder elsewhere that holds only what it may need: template/.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "tutorials"
# What is drawn while somebody waits.
PROGRESS = re.compile(r"[^\r\n]*\d%\|[^\r\n]*[\r\n]*")


def read(name: str) -> nbformat.NotebookNode:
    """The notebook ``tutorials/NAME.ipynb``, with the outputs that are stored."""
    return nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run all cells of a notebook in a new folder.

    Args:
        notebook: is not changed.
        folder: is made; files are left in it.

    Returns:
        The notebook with its new outputs, and without what differs between two machines.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    (folder / "tutorials").mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", ".pytest_cache")
    shutil.copytree(ROOT / "template", folder / "template", ignore=ignored)
    new = nbformat.from_dict(notebook)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    client = NotebookClient(
        new,
        timeout=1800,  # of a cell, on a machine that has other work
        kernel_name="python3",
        resources={"metadata": {"path": str(folder / "tutorials")}},
        record_timing=False,
    )
    client.execute(env={**os.environ, "PATH": path})
    new.metadata = {"kernelspec": notebook.metadata.kernelspec}
    for cell in new.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return new


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Each stream in one piece, however its parts arrived, without progress bars."""
    kept: list[nbformat.NotebookNode] = []
    streams: dict[str, nbformat.NotebookNode] = {}
    for output in outputs:
        if output.output_type == "stream" and output.name in streams:
            streams[output.name].text += output.text
            continue
        if output.output_type == "stream":
            streams[output.name] = output
        elif "image/png" in output.get("data", ()):
            output.data.pop("text/plain", None)
        kept.append(output)
    for stream in streams.values():
        stream.text = PROGRESS.sub("", stream.text).lstrip("\r\n")
    return [output for output in kept if output.get("text", "whatever it is")]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted(path.stem for path in TUTORIALS.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(names)}")
    for name in parser.parse_args().names or names:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(read(name), Path(folder) / "checkout")
        nbformat.write(notebook, TUTORIALS / f"{name}.ipynb")
        print(name, flush=True)


if __name__ == "__main__":
    main()
