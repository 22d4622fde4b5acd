# SPDX-License-Identifier: Apache-2.0
"""longtail knows no project by name: not in code, not in strings, not in a comment's identifiers.

Citing a paper in prose is something else: "Table 16 of the DisAlign paper".
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = sorted(path.parent for path in ROOT.glob("projects/*/*/__init__.py"))
# RegionRebalance and region_rebalance: (Region, Rebalance).
WORDS = [tuple(re.findall(r"[A-Z][a-z]+", path.parent.name)) for path in PROJECTS]
# Any spelling.
SPELLINGS = re.compile("|".join(r"[\W_]?".join(words) for words in WORDS), re.IGNORECASE)
# What only code is called: package and key, and class names, in which the words are not alone.
IDENTIFIERS = re.compile(
    "|".join(
        rf"\b{'_?'.join(words).lower()}\b|\b{'_?'.join(words).upper()}\b"
        rf"|\w{''.join(words)}|{''.join(words)}\w"
        for words in WORDS
    )
)
SOURCES = sorted(ROOT.glob("longtail/**/*.py"))


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of the constants that are docstrings."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, holders) and node.body)
    first = (node.body[0] for node in nodes)
    return {id(node.value) for node in first if isinstance(node, ast.Expr)}


def words_of_code(source: str) -> set[str]:
    """Names and string literals, without docstrings and comments."""
    tree = ast.parse(source)
    prose = docstrings(tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            found.add(node.value)
        values = (value for _, value in ast.iter_fields(node) if not isinstance(node, ast.Constant))
        found |= {value for value in values if isinstance(value, str)}
    return found


def named(source: str) -> list[str]:
    """Where a source names a project."""
    code = [word for word in words_of_code(source) if SPELLINGS.search(word)]
    return code + [match[0] for match in IDENTIFIERS.finditer(source)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_longtail_names_no_project(path):
    assert named(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "x = 'MODEL.DISALIGN.RHO'",
        "import disalign",
        "from region_rebalance import x",
        "# with DisAlignRCNN",
        "'''Read by RegionRebalanceHead.'''",
        "# MODEL.REGION_REBALANCE.BASE_HEAD_NAME",
        "raise ValueError('train DisAlign first')",
        "x = f'{y} of Region Rebalance'",
        "def disalign_loss(): pass",
        "x = cfg.MODEL.REGION_REBALANCE",
        "# see disalign.functional",
    ],
)
def test_what_counts_as_a_name(source):
    assert named(source)


@pytest.mark.parametrize(
    "source", ["# Table 16 of the DisAlign paper.", "'''Eq. 7 of Region Rebalance (RR).'''\nx = 1"]
)
def test_citations_are_no_names(source):
    assert named(source) == []
