# SPDX-License-Identifier: Apache-2.0
"""Figures for a page: marks that say what they are, ids that are the page's own."""

from xml.etree import ElementTree

from matplotlib.figure import Figure

from longtail.visualization.hover import explain, to_svg

HOSTILE = "<script>x</script> & \"quoted\" '$a$'"


def drawn(name="one"):
    figure = Figure()
    axes = figure.subplots()
    [bar] = axes.bar(0, 2)
    explain(bar, HOSTILE)
    [line] = axes.plot([0, 1], [1, 2], marker="o")
    explain(line, "a line\nof two")
    axes.imshow([[0, 1]], interpolation="none")
    return to_svg(figure, name, HOSTILE)


def test_marks_are_explained_and_escaped():
    text = drawn()
    assert "<script" not in text and text.startswith("<svg ")
    root = ElementTree.fromstring(text)
    titles = [element.text for element in root.iter("title")]
    assert titles == [HOSTILE, "a line\nof two"]
    # A title speaks for the element that it is the first child of.
    parents = [e for e in root.iter() if len(e) and e[0].tag == "title"]
    assert [e.tag for e in parents] == ["g", "g"]
    assert root.get("aria-label") == HOSTILE
    assert root.get("viewBox") and root.get("width") is None


def test_control_characters_are_no_xml():
    figure = Figure()
    [line] = figure.subplots().plot([0, 1])
    explain(line, "a\x01b\x1bc")
    titles = [e.text for e in ElementTree.fromstring(to_svg(figure, "one", "x")).iter("title")]
    assert titles == ["a b c"]


def test_ids_are_those_that_are_used_and_no_other_figure_has():
    ids = {}
    for name in ("one", "two"):
        root = ElementTree.fromstring(drawn(name))
        ids[name] = {e.get("id") for e in root.iter() if e.get("id")}
        used = {
            value.partition("#")[2].rstrip(")")
            for e in root.iter()
            for key, value in e.attrib.items()
            if "url(#" in value or (key == "href" and value.startswith("#"))
        }
        assert used and used == ids[name]
    assert not ids["one"] & ids["two"]


def test_nothing_of_it_is_elsewhere():
    text = drawn()
    assert "DOCTYPE" not in text and "<style" not in text and "metadata" not in text
    links = [
        value
        for element in ElementTree.fromstring(text).iter()
        for key, value in element.attrib.items()
        if key.endswith("href")
    ]
    assert links and all(link.startswith(("#", "data:")) for link in links)
