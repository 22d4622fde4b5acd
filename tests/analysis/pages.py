# SPDX-License-Identifier: Apache-2.0
"""Runs whose names and texts mean something else in HTML, and what a page holds."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from tests.finished_runs import write_run

# Each would run a script or break the page if it stood there as it is.
NAMES = (
    "<script>document.title='broken'</script>",
    '"><img src=x onerror="document.title=1">',
    "a & b &lt; c",
    "$\\frac{1}{2}$ '",
    "tall building, seen from below, of many storeys",
)
BASE, MINE = (50.0, 40.0, 30.0, 20.0, 10.0), (49.0, 42.0, 35.0, None, 10.0)


class Page(HTMLParser):
    """What a page holds, as a browser reads it.

    Attributes:
        elements: name and attributes of every one.
        text: all of it.
        titles: what is shown where the pointer is.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self.titles, self._in_title = "", [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._in_title = tag == "title"
        if self._in_title:
            self.titles.append("")

    def handle_endtag(self, tag):
        self._in_title = False

    def handle_data(self, data):
        self.text += data
        if self._in_title:
            self.titles[-1] += data

    def links(self) -> list[str]:
        """Whatever is named by src, href, and the like."""
        keys = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        return [a[key] for _, a in self.elements for key in keys if key in a]


def write_hostile_runs(folder: Path) -> list[str]:
    """Two methods of two seeds, with curves, pictures and figures; returns arguments."""
    rng = np.random.default_rng(0)
    for name, values in (("base", BASE), ("<b>mine", MINE)):
        for seed in (0, 1):
            iou = [None if v is None else v + seed for v in values]
            history = [
                {
                    "iteration": i,
                    "total_loss": 9 / (i + 1),
                    "loss_a": 1.0,
                    "lr": 0.1,
                    "sem_seg/mIoU": i,
                }
                for i in range(9, 400, 10)
            ]
            write_run(
                folder / name.removeprefix("<b>") / f"seed{seed}",
                {"mIoU": values[0] + 2 * seed},
                iou,
                seed=seed,
                config={"MODEL": {"HEAD": f"<i>{name}</i>"}},
                confusion=rng.integers(0, 50, (5, 5)),
                names=NAMES,
                history=history,
            )
    run = folder / "mine" / "seed0"
    for place in ("pictures", "figures"):
        (run / place).mkdir()
        Image.new("RGB", (2000, 500), "red").save(run / place / "<i>wide.png")
    rows = [
        {"name": NAMES[0], "group": "rare", "train_count": 0, "alpha": 1.5, "beta": -0.25},
        {"name": "b", "group": "frequent", "train_count": 90, "alpha": 0.5, "beta": 0.25},
        {"name": "no value", "group": "frequent", "train_count": 9, "alpha": None, "beta": 0},
    ]
    (run / "figures" / "learned.json").write_text(json.dumps({"x": [{"classes": rows}]}))
    return [f"base={folder}/base", f"<b>mine={folder}/mine"]
