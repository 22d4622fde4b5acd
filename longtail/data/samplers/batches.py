# SPDX-License-Identifier: Apache-2.0
"""Endless batches, and the position in them that a checkpoint keeps."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from longtail.data.samplers.training import EpochSampler


class Draw(NamedTuple):
    """An image at a position of the stream: the place-th draw of an epoch."""

    epoch: int
    place: int
    index: int


class BatchStream:
    """The batches of all processes together: the same in each of them, however many they are.

    With groups, all images of a batch are of one group: draws wait until their group has enough.
    """

    def __init__(
        self, sampler: EpochSampler, batch_size: int, groups: Sequence[int] | None = None
    ) -> None:
        """Start at the first draw of the first epoch.

        Args:
            sampler: of image indices.
            batch_size: images of a batch, over all processes, > 0.
            groups: the group of every image, or None for one group.
        """
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups
        self._epoch, self._place = 0, 0
        self._waiting: dict[int, list[Draw]] = {}

    def state_dict(self) -> dict[str, Any]:
        """The position: the next draw, and the draws that wait, as plain numbers."""
        waiting = [list(draw) for draws in self._waiting.values() for draw in draws]
        return {"epoch": self._epoch, "place": self._place, "waiting": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that :meth:`state_dict` gave; nothing is drawn again."""
        self._epoch, self._place = state["epoch"], state["place"]
        self._waiting = {}
        for epoch, place, index in state["waiting"]:
            self._waiting.setdefault(self._group(index), []).append(Draw(epoch, place, index))

    def __iter__(self) -> Iterator[list[Draw]]:
        """Draw on from the position."""
        while True:
            # With a smaller batch than before a resume more may wait than one batch takes.
            for group in sorted(self._waiting):
                yield from self._full(group)
            indices = self.sampler.epoch(self._epoch).tolist()
            while self._place < len(indices):
                draw = Draw(self._epoch, self._place, indices[self._place])
                self._place += 1
                group = self._group(draw.index)
                self._waiting.setdefault(group, []).append(draw)
                yield from self._full(group)
            self._epoch, self._place = self._epoch + 1, 0

    def _full(self, group: int) -> Iterator[list[Draw]]:
        """The batches that a group has enough draws for."""
        while len(self._waiting.get(group, ())) >= self.batch_size:
            waiting = self._waiting.pop(group)
            batch, rest = waiting[: self.batch_size], waiting[self.batch_size :]
            if rest:
                self._waiting[group] = rest
            yield batch

    def _group(self, index: int) -> int:
        return self.groups[index] if self.groups else 0
