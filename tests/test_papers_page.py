# SPDX-License-Identifier: Apache-2.0
"""docs/papers.md names every equation, table and figure, and nothing that is not there."""

import re
from pathlib import Path

import pytest

from longtail.config.tables import read_tables

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
# Counted in the papers.
NUMBERED = {
    "Region Rebalance": {"Eq.": 17, "Table": 7, "Figure": 12},
    "DisAlign": {"Eq.": 11, "Table": 18, "Figure": 6},
}


def section(title: str) -> list[list[str]]:
    """Cells of the table rows below a heading."""
    text = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def numbers(cell: str, kind: str) -> set[int]:
    """Those that a cell names: ``Eq. 1, 2, 10-12`` or ``Figures 10-12``."""
    found = set()
    for match in re.finditer(rf"{re.escape(kind)}s? ([\d\-, ]+)", cell):
        for part in re.findall(r"\d+(?:-\d+)?", match[1]):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


@pytest.mark.parametrize("paper", NUMBERED)
@pytest.mark.parametrize("kind", ["Eq.", "Table", "Figure"])
def test_everything_that_has_a_number(paper, kind):
    named = set().union(*(numbers(row[0], kind) for row in section(paper)))
    assert named == set(range(1, NUMBERED[paper][kind] + 1))


def test_every_table_has_its_command():
    named = re.findall(r"`longtail table ([\w-]+)`", TEXT)
    assert {*named} == {table.short for table in read_tables().values()}


def test_a_table_is_named_where_it_is_printed():
    for table in read_tables().values():
        if table.number.startswith(("Table", "Figure")):
            [row] = [row for row in section(table.paper) if row[0] == table.number]
            assert f"`longtail table {table.short}`" in row[2]


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert sum(link.startswith("../tests/") for link in links) > 50
    missing = {link for link in links if not (ROOT / "docs" / link).is_file()}
    assert missing == set()
