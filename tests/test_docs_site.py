# SPDX-License-Identifier: Apache-2.0
"""The documentation site has every page and every public module; ``make docs`` builds it whole."""

import ast
import fnmatch
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def conf():
    """docs/conf.py, as the generator executes it."""
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of_the_index() -> set[Path]:
    """The documents that docs/index.rst lists, without their endings."""
    text = (DOCS / "index.rst").read_text(encoding="utf-8")
    entries = re.findall(r"^   ([\w./]+)$", text, re.MULTILINE)
    assert len(entries) == len(set(entries)) > 15
    return {(DOCS / entry).resolve() for entry in entries}


def test_every_page_is_in_the_index():
    readmes = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
    readmes += [*ROOT.glob("projects/*/README.md"), *ROOT.glob("*/README.md")]
    written = {page.with_suffix("") for page in [*readmes, *DOCS.glob("*.md")]}
    generated = {DOCS / "api" / name / "index" for name in packages()}
    assert pages_of_the_index() == written | generated


def packages() -> set[str]:
    """The top packages that setup.py installs: longtail and one a project."""
    return {"longtail", *(init.parent.name for init in ROOT.glob("projects/*/*/__init__.py"))}


def test_every_page_of_the_index_is_read(conf):
    for page in pages_of_the_index():
        if "api" not in page.parts:
            path = page.relative_to(ROOT).as_posix() + ".md"
            assert any(matches(path, pattern) for pattern in conf.include_patterns), path


def matches(path: str, pattern: str) -> bool:
    """As the generator has it: * stays within a folder; all our pages lie in at most three."""
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatch, parts, patterns))


def test_every_public_module_gets_a_page(conf):
    """What the build compares its pages with: the tracked files, by hand a few of each package."""
    assert set(conf.PACKAGES) == packages()
    found = conf.public_modules()
    assert {
        "longtail",
        "longtail.losses.softmax",
        "longtail.commands.train",
        "longtail.evaluation.lvis",
        "disalign.functional",
        "region_rebalance.commands.quickstart",
    } <= found
    assert not any(part.startswith("_") for name in found for part in name.split("."))
    listed = subprocess.run(
        ["git", "ls-files", "longtail/*.py", "projects/*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0 and listed.stdout:
        tracked = [Path(line) for line in listed.stdout.split()]
        public = [p for p in tracked if p.name == "__init__.py" or not p.name.startswith("_")]
        assert len(found) >= len(public)


def test_public_constants_are_assigned_one_by_one():
    """The generator gives a page no constant that shares its assignment with others."""
    folders = [ROOT / "longtail", *ROOT.glob("projects/*/*/")]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                names = [ast.unparse(name) for name in node.targets[0].elts]
                assert all(name.startswith("_") for name in names), f"{path}: {names}"


def test_equations_keep_their_lines(conf):
    docstring = """Compute the loss.

        L = sum_i w_i l_i
        l_i = -log p_i

    with weights w.

    - One item
      of two lines.

    Args:
        x: logits.

            More about x.
    """
    lines = [line.removeprefix("    ") for line in docstring.splitlines()]
    marked = conf.literal_equations(lines)
    assert marked[2:6] == ["::", "", "    L = sum_i w_i l_i", "    l_i = -log p_i"]
    assert marked[:2] + marked[4:] == lines
