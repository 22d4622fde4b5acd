# SPDX-License-Identifier: Apache-2.0
"""The documentation site has every page and every public name; ``make docs`` builds it whole."""

import ast
import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def load(file: Path):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def conf():
    """docs/conf.py, as the generator executes it."""
    pytest.importorskip("sphinx")
    return load(DOCS / "conf.py")


def pages_of_the_index() -> set[Path]:
    """The documents that docs/index.rst lists, without their endings."""
    text = (DOCS / "index.rst").read_text(encoding="utf-8")
    entries = re.findall(r"^   ([\w./]+)$", text, re.MULTILINE)
    assert len(entries) == len(set(entries)) > 15
    return {(DOCS / entry).resolve() for entry in entries}


def test_every_page_is_in_the_index():
    readmes = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
    readmes += [*ROOT.glob("projects/*/README.md"), *ROOT.glob("[a-z]*/README.md")]
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


def test_every_public_name_has_to_be_described(conf):
    """What the build compares its pages with: by hand a few of each package."""
    assert set(conf.PACKAGES) == packages()
    names = conf.public_names()
    assert {
        "longtail",
        "longtail.losses.softmax",
        "longtail.losses.softmax.Seesaw",
        "longtail.commands.train.main",
        "longtail.evaluation.lvis",
        "longtail.config.loading.CONFIGS",
        "disalign.functional.calibrate_logits",
        "region_rebalance.commands.quickstart",
    } <= names
    assert not any(part.startswith("_") for name in names for part in name.split("."))
    assert "longtail.config.loading.CfgNode" not in names


def test_public_constants_are_assigned_one_by_one():
    """The generator gives a page no constant that shares its assignment with others."""
    folders = [ROOT / "longtail", *ROOT.glob("projects/*/*/")]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                names = [ast.unparse(name) for name in node.targets[0].elts]
                assert all(name.startswith("_") for name in names), f"{path}: {names}"


def test_examples_keep_their_lines(conf):
    docstring = """Compute the loss.

        longtail one
        longtail two

    with weights w.

    .. math::

        L = 1

    - One item
      of two lines.

    Args:
        x: logits.

            More about x.
    """
    lines = [line.removeprefix("    ") for line in docstring.splitlines()]
    marked = conf.literal_examples(lines)
    assert marked[2:6] == ["::", "", "    longtail one", "    longtail two"]
    assert marked[:2] + marked[4:] == lines


# A checkout of two modules and a page, for the configuration of the real one.
SOURCES = {
    "README.md": "# Small\n\nLogits $z_j$, see [the guide](docs/guide.md#how-to) and "
    "[a source](longtail/losses/one.py).\n",
    "docs/guide.md": "# Guide\n\n## How to\n\n$$\\hat z = \\frac{a}{b}$$\n",
    "docs/index.rst": "Small\n=====\n\n.. toctree::\n\n   ../README\n   guide\n"
    "   api/longtail/index\n",
    "longtail/__init__.py": '"""A package."""\n\n__version__ = "7.5"\n',
    "longtail/losses/__init__.py": '"""Losses."""\n\nfrom .inner import focal\n\n'
    '__all__ = ["focal"]\n',
    "longtail/losses/inner/__init__.py": '"""Inner."""\n\nfrom ..one import focal\n\n'
    '__all__ = ["focal"]\n',
    "longtail/losses/one.py": '''r"""One loss.

    longtail train --config-file mine.yaml

The config is yours.
"""

LIMIT = 3


class Report:
    """K."""


def focal(x: "Report", y: "Table", num_classes: int) -> int:
    r"""Focal loss, at most :data:`.LIMIT`.

    .. math::

        l = -\\sqrt{p_y} \\log p_y

    Args:
        x: a report.
        y: of a class that this module does not know.
        num_classes: K.

    Returns:
        The same.
    """
    return x
''',
    "longtail/report.py": '"""Named by :func:`longtail.losses.focal` for short."""\n\n\n'
    'class Report:\n    """Of this module."""\n\n\nclass Table:\n    """Of this one alone."""\n',
}


def build(folder: Path, sources: dict[str, str]) -> tuple[int, str]:
    """Build a checkout; its exit code and what it says."""
    pytest.importorskip("autoapi")
    pytest.importorskip("myst_parser")
    for name, text in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(DOCS / "conf.py", folder / "docs")
    for name in ("_static", "_templates"):
        shutil.copytree(DOCS / name, folder / "docs" / name)
    options = ["-c", "docs", "-d", "trees", "-q", "-W", "--keep-going"]
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", "site"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return made.returncode, made.stdout + made.stderr


def test_a_site_is_complete_and_needs_no_network(tmp_path):
    code, said = build(tmp_path, SOURCES)
    assert (code, said) == (0, "")
    site = tmp_path / "site"
    assert load(ROOT / "tools" / "check_site.py").dead_links(site) == []

    api = site / "docs" / "api" / "longtail" / "losses"
    module = (api / "one" / "index.html").read_text(encoding="utf-8")
    assert "<msqrt>" in module and "\\sqrt" not in module
    assert "K.</p>" in module and "<ol" not in module
    assert re.search(r"<pre>.*longtail train --config-file mine.yaml", module)
    assert 'href="#longtail.losses.one.LIMIT"' in module
    for page, way in ((api, "one/index.html"), (api / "inner", "../one/index.html")):
        text = (page / "index.html").read_text(encoding="utf-8")
        assert f'href="{way}#longtail.losses.one.focal"' in text

    assert 'href="#longtail.losses.one.Report"' in module and "longtail.report." not in module
    short = (api.parent / "report" / "index.html").read_text(encoding="utf-8")
    assert 'href="../losses/one/index.html#longtail.losses.one.focal"' in short

    assert "<mfrac>" in (site / "docs" / "guide.html").read_text(encoding="utf-8")
    readme = (site / "README.html").read_text(encoding="utf-8")
    assert "<msub>" in readme and 'href="docs/guide.html#how-to"' in readme


def test_whatever_is_wrong_fails_the_build(tmp_path):
    wrong = {
        **SOURCES,
        "docs/guide.md": "# Guide\n\n$\\nonsense{x}$ [gone](gone.md)\n",
        "longtail/losses/two.py": '"""See :func:`longtail.losses.gone_away`."""\n\n'
        "THIS, THAT = 1, 2\n",
    }
    code, said = build(tmp_path, wrong)
    assert code == 1
    for fault in (
        "nonsense",
        "gone.md",
        "how-to",
        "longtail.losses.gone_away",
        "no page describes longtail.losses.two.THIS",
    ):
        assert re.search(rf"WARNING: .*{fault}", said), said


def test_links_of_a_site_are_checked(tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "b.html").write_text('<p id="here"><a href="../a.html">a</a></p>')
    (tmp_path / "a.html").write_text("""
        <script src="to/b.html?v=1"></script> <img src="data:image/png;base64,AA==">
        <a href="to/b.html">1</a> <a href="to/b.html#here">2</a> <a href="https://x.org/y">3</a>
        <a href="#top">4</a> <i id="top">5</i>
        <a href="to/c.html">no file</a>
        <a href="to/b.html#there">no anchor</a>
        <a href="#bottom">no anchor either</a>
        <a href="../else.html">outside</a>
        <a href="/to/b.html">from the root</a>
        <a href="file:///a.html">of this machine</a>
        <img src="https://x.org/y.png">
    """)
    found = load(ROOT / "tools" / "check_site.py").dead_links(tmp_path)
    assert found == [
        "a.html: to/c.html: is not there",
        "a.html: to/b.html#there: its page has no such anchor",
        "a.html: #bottom: its page has no such anchor",
        "a.html: ../else.html: leads out of the site",
        "a.html: /to/b.html: leads out of the site",
        "a.html: file:///a.html: is not of http or https",
        "a.html: https://x.org/y.png: is fetched from elsewhere",
    ]
