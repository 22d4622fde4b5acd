# SPDX-License-Identifier: Apache-2.0
"""Images and detections that the processes of an LVIS evaluation have seen, joined and written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from longtail.evaluation.lvis.decisions import ImageDecisions
from longtail.evaluation.lvis.matches import Matches, join_matches
from longtail.utils.io import atomic_write


@dataclass
class Seen:
    """Images that a process has seen, with their detections.

    Attributes:
        images: image indices.
        matches: the matched detections.
        lines: image index and its detections in the results file.
        with_masks: the predictions have masks.
        decisions: what metrics of decisions need, where they are wanted.
    """

    images: list[int] = field(default_factory=list)
    matches: list[Matches] = field(default_factory=list)
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    with_masks: bool = False
    decisions: list[ImageDecisions] = field(default_factory=list)

    def packed(self) -> "Seen":
        """Join the matches of all images into one, which is sent in a fraction of the time."""
        tasks = ("bbox", "segm") if self.with_masks else ("bbox",)
        return replace(self, matches=[join_matches(self.matches, tasks)])


def join_seen(parts: Sequence[Seen]) -> Seen:
    """Join what several processes have seen.

    Args:
        parts: one a process.
    """
    return Seen(
        images=[image for part in parts for image in part.images],
        matches=[matches for part in parts for matches in part.matches],
        lines=[line for part in parts for line in part.lines],
        with_masks=any(part.with_masks for part in parts),
        decisions=[image for part in parts for image in part.decisions],
    )


def write_results(path: str | os.PathLike, lines: Sequence[tuple[int, bytes]]) -> None:
    """Write the detections of all images as one JSON list, atomically, by image.

    Args:
        path: the file to write.
        lines: of :class:`Seen`.
    """
    with atomic_write(path, "wb") as file:
        file.write(b"[")
        for number, (_, line) in enumerate(sorted(lines)):
            file.write(b",\n" if number else b"\n")
            file.write(line)
        file.write(b"\n]\n")
