# SPDX-License-Identifier: Apache-2.0
"""Projects that do not fit, each said in one line; what fits is in tests/packaging."""

from importlib.metadata import EntryPoint

import pytest

from longtail.config import Project, installed_projects, projects


def found(monkeypatch, *values: str) -> tuple[Project, ...]:
    """The projects of entry points with these values, called a, b and so on."""
    points = [EntryPoint(chr(97 + i), v, projects.GROUP) for i, v in enumerate(values)]
    monkeypatch.setattr(projects, "entry_points", lambda group: reversed(points))
    return installed_projects.__wrapped__()


def test_projects_come_in_the_order_of_their_names(monkeypatch):
    values = ("region_rebalance.project:PROJECT", "disalign.project:PROJECT")
    assert [p.name for p in found(monkeypatch, *values)] == ["Region Rebalance", "DisAlign"]
    assert [p.name for p in found(monkeypatch, *values[::-1])] == ["DisAlign", "Region Rebalance"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_module:PROJECT", "a (no_such_module:PROJECT) cannot be imported: No module"),
        ("os:PROJECT", "a (os:PROJECT) cannot be imported: module 'os' has no attribute"),
        ("os:sep", "os:sep must be a longtail.config.Project, got str"),
    ],
)
def test_what_does_not_fit(monkeypatch, value, words):
    with pytest.raises(ValueError) as info:
        found(monkeypatch, value)
    assert words in str(info.value)
