# SPDX-License-Identifier: Apache-2.0
"""The notebooks of tutorials/: what is stored in them, and what they do when they are run."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))
# A line of a page, or a folder, of whoever ran it.
MACHINE = re.compile(r"(?<![\w.])/(?!(?:\s|$))[\w.-]+/|\w+@\w+|://")
# What does not differ between two runs, or two machines: words, but for "nan" and hashes.
WORD = re.compile(r"(?<![\w.])(?!nan\b)[A-Za-z]\w*")


@pytest.fixture(scope="module")
def tool():
    """tools/run_tutorials.py, which needs nbclient."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    spec = importlib.util.spec_from_file_location("tutorials", ROOT / "tools/run_tutorials.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


each = pytest.mark.parametrize("name", [path.stem for path in TUTORIALS])


def test_the_promised_ones_are_there():
    names = [path.stem for path in TUTORIALS]
    assert names == ["detection", "extending", "reproducing", "segmentation"]


def texts(cell: dict) -> list[str]:
    """What a cell's output says."""
    return ["".join(output.get("text", "")) for output in cell.get("outputs", ())]


@each
def test_what_is_stored(name):
    """All cells, run in order, without errors, without traces of a machine, and small."""
    path = ROOT / "tutorials" / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(cells) <= 16 and path.stat().st_size < 150_000
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds
    assert [s for cell in code for text in texts(cell) for s in MACHINE.findall(text)] == []


@each
def test_links_lead_somewhere(name):
    text = (ROOT / "tutorials" / f"{name}.ipynb").read_text(encoding="utf-8")
    links = re.findall(r"\]\((\.\./[^)#]+)", text)
    assert links and all((ROOT / "tutorials" / link).is_file() for link in links)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("file  /home/me/x.json", True),
        ("from https://x.org", True),
        ("written to output/a/b, 1/2, and/or", False),
        ("file cache/class_stats/a.json", False),
    ],
)
def test_what_counts_as_a_trace(text, found):
    assert bool(MACHINE.search(text)) is found


def said(cell: dict) -> list[str]:
    """The words of standard output."""
    streams = [o for o in cell.get("outputs", ()) if o.get("name") == "stdout"]
    return WORD.findall("".join("".join(stream["text"]) for stream in streams))


def test_what_is_compared():
    text = "| box AP |  3.14 | nan |\n|:---|\nfile a/b_train-98d1fe7972ba.json\neta: 0:01, 12e-5 s"
    words = ["box", "AP", "file", "a", "b_train", "eta", "s"]
    assert said({"outputs": [{"name": "stdout", "text": text}]}) == words


@pytest.mark.slow
@each
def test_a_notebook_runs_and_says_what_is_stored(name, tool, tmp_path):
    """Elsewhere than in the checkout; a cell that fails raises."""
    stored = tool.read(name)
    before = [cell.get("outputs") for cell in stored.cells]
    new = tool.execute(stored, tmp_path / "elsewhere")
    assert [cell.get("outputs") for cell in stored.cells] == before
    assert [said(cell) for cell in new.cells] == [said(cell) for cell in stored.cells]
    pictures = [[o.data.keys() for o in c.get("outputs", ()) if "data" in o] for c in new.cells]
    assert (name == "segmentation") == any("image/png" in keys for p in pictures for keys in p)
