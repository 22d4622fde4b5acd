# SPDX-License-Identifier: Apache-2.0
"""``longtail report``: the page in a browser, and what is refused."""

import pytest

from longtail.commands.report import main
from tests.analysis.pages import write_hostile_runs
from tests.browser import browser, needs_browser
from tests.finished_runs import write_run
from tests.messages import assert_names


@needs_browser
def test_in_a_browser(tmp_path, capsys):
    """No script, no error, no other file, and nothing wider than a phone or a screen."""
    arguments = write_hostile_runs(tmp_path)
    page = tmp_path / "report.html"
    main([*arguments, "--output", str(page)])
    assert capsys.readouterr().out == f"written: {page}\n"
    with browser() as tab:
        for width in (390, 1280):
            tab.open(page, width)
            # A scroll bar may take some of the width.
            assert tab.value("document.documentElement.scrollWidth") <= width
            assert tab.value("innerWidth") == width
            assert tab.complaints() == []
            own, *others = tab.requests()
            assert own == page.as_uri()
            assert others and all(url.startswith("data:image/") for url in others)
            assert tab.value("document.scripts.length") == 0
            # The browser drew it: figures have a height, and pictures their content.
            assert tab.value(
                "[...document.querySelectorAll('figure svg')].every(s => s.clientHeight > 100)"
            )
            assert tab.value("document.querySelectorAll('figure svg').length") == 12
            assert tab.value("[...document.images].every(i => i.naturalWidth == 1400)")
        assert tab.value("document.title") == "toy_val: base, <b>mine"
        assert tab.value("document.querySelectorAll('h3 b, th b, figcaption b').length") == 0


@needs_browser
def test_the_browser_notices(tmp_path):
    """What the test above relies on: errors, requests and width are seen."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'>"
        "<script>nothing.here</script><img src='http://example.org/x.png'>"
        "<div style='width: 999px'>x</div>"
    )
    with browser() as tab:
        tab.open(page, 390)
        assert "nothing is not defined" in str(tab.complaints())
        assert "http://example.org/x.png" in tab.requests()
        assert tab.value("document.documentElement.scrollWidth") > 390


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["{tmp}/gone"], ["{tmp}/gone"]),
        (["{tmp}/a", "--output", "{tmp}"], ["--output", "{tmp}"]),
        (["{tmp}/a", "--pictures", "{tmp}/gone"], ["{tmp}/gone"]),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, parts):
    write_run(tmp_path / "a", {})
    with pytest.raises(SystemExit) as info:
        main([argument.format(tmp=tmp_path) for argument in arguments])
    assert info.value.code.startswith("error: ")
    assert_names(info.value.code, *(part.format(tmp=tmp_path) for part in parts))
