# SPDX-License-Identifier: Apache-2.0
"""Figures as SVG for a page: a mark says what it is when the pointer is on it, without a script."""

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
# Marks the ids that are texts; nothing of matplotlib's starts with it.
_TEXT = "text:"
# Stands for a line break, which an attribute cannot have.
_BREAK = "\u2028"
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def explain(artist: Artist, text: str) -> None:
    """Set what is shown of a bar, line or marker when the pointer is on it.

    Args:
        artist: of a figure for :func:`to_svg`.
        text: any, of one line or several.
    """
    artist.set_gid(_TEXT + text.replace("\n", _BREAK))


def to_svg(figure: Figure, name: str, title: str) -> str:
    """Write a figure as an SVG element that stands in a page.

    It has no background and no size of its own, and keeps its text as text.

    Args:
        figure: of matplotlib.
        name: of the figure, unlike that of any other figure of the page: a prefix of ids.
        title: what the picture shows, for those who cannot see it.

    Returns:
        ``<svg>...</svg>``, all texts escaped.
    """
    text = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    # A control character in a name is no XML, escaped or not.
    root = ElementTree.fromstring(_CONTROL.sub(b" ", text.getvalue()))
    for element in [e for e in root if e.tag.endswith("}metadata")]:
        root.remove(element)
    for element in root.iter():
        for child in [c for c in element if c.tag.endswith("}style")]:
            element.remove(child)
    _explain_elements(root)
    _rename_ids(root, name)
    width, height = (float(root.attrib.pop(key).removesuffix("pt")) for key in ("width", "height"))
    root.attrib.update({"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title})
    for element in root.iter():
        # In a page the elements of SVG need no namespace.
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if _HREF in element.attrib:
            element.attrib["href"] = element.attrib.pop(_HREF)
    return ElementTree.tostring(root, encoding="unicode")


def _explain_elements(root: ElementTree.Element) -> None:
    for element in root.iter():
        if element.get("id", "").startswith(_TEXT):
            title = ElementTree.Element(f"{{{_SVG}}}title")
            title.text = element.attrib.pop("id").removeprefix(_TEXT).replace(_BREAK, "\n")
            element.insert(0, title)


def _rename_ids(root: ElementTree.Element, name: str) -> None:
    """Drop the ids that nothing refers to, and give the others a prefix."""
    used = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == _HREF and value.startswith("#"):
                used.add(value[1:])
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                used.update(re.findall(r"url\(#([^)]+)\)", value))
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
