"""What the processes of an LVIS evaluation have seen, brought together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.distributed as dist
from detectron2.utils import comm

from longtail.evaluation.lvis.metrics import Matches, join_matches
from longtail.utils.io import atomic_write


@dataclass
class Seen:
    """What one process has of its images.

    Attributes:
        images: image indices.
        matches: the matched detections.
        lines: image index and its detections in the results file.
        with_masks: the predictions have masks.
    """

    images: list[int] = field(default_factory=list)
    matches: list[Matches] = field(default_factory=list)
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    with_masks: bool = False


def gather_seen(seen: Seen) -> Seen | None:
    """What all processes have seen, in the main process; None in the others."""
    if comm.get_world_size() == 1:
        return seen
    joined = join_matches(seen.matches, ("bbox", "segm") if seen.with_masks else ("bbox",))
    mine = Seen(seen.images, [joined], seen.lines, seen.with_masks)
    # Not detectron2's comm.gather, for the reason given in SemSegEvaluator.
    gathered = [None] * comm.get_world_size() if comm.is_main_process() else None
    dist.gather_object(mine, gathered)
    if gathered is None:
        return None
    return Seen(
        images=[image for part in gathered for image in part.images],
        matches=[matches for part in gathered for matches in part.matches],
        lines=[line for part in gathered for line in part.lines],
        with_masks=any(part.with_masks for part in gathered),
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
