# SPDX-License-Identifier: Apache-2.0
"""Find the links of a built site that lead nowhere, and what it would fetch from elsewhere.

python tools/check_site.py build/site
"""

import argparse
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a page needs to be read; links are what a reader may follow.
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}
EXTERNAL = ("http", "https")


class Page(HTMLParser):
    """The links and anchors of one page.

    Attributes:
        links: (url, whether the page needs what is there), in order.
        anchors: what a fragment can name.
    """

    def __init__(self, text: str) -> None:
        """Read a page."""
        super().__init__()
        self.links: list[tuple[str, bool]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names and where it leads."""
        for name, value in attrs:
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value or "")
            elif (tag, name) == ("a", "href") or (tag, name) in FETCHED:
                self.links.append((value or "", (tag, name) in FETCHED))


def dead_links(site: Path) -> list[str]:
    """What is wrong with the links of all pages, a line each.

    Args:
        site: folder of HTML files.
    """
    site = site.resolve()
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}
    return [
        f"{file.relative_to(site)}: {url}: {why}"
        for file, page in pages.items()
        for url, needed in page.links
        if (why := _fault(url, needed, file, pages, site))
    ]


def _fault(url: str, needed: bool, file: Path, pages: dict[Path, Page], site: Path) -> str:
    """Why a link is not one that works without a network; empty if it is."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        if needed:
            return "" if parts.scheme == "data" else "is fetched from elsewhere"
        return "" if parts.scheme in EXTERNAL else "is not of http or https"
    path = unquote(parts.path)
    target = (file.parent / path).resolve() if path else file
    if path.startswith("/") or not target.is_relative_to(site):
        return "leads out of the site"
    if not target.is_file():
        return "is not there"
    if parts.fragment and target in pages:
        anchor = unquote(parts.fragment)
        return "" if anchor in pages[target].anchors else "its page has no such anchor"
    return ""


def main() -> None:
    """Print the faults; exit with 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="folder of HTML files")
    faults = dead_links(parser.parse_args().site)
    print(*faults, sep="\n", end="\n" * bool(faults))
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
