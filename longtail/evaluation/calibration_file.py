# SPDX-License-Identifier: Apache-2.0
"""The file of a fitted calibration: maps of scores by class, and what they were fitted to. JSON.

Shapes: N predictions, K classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longtail.evaluation.saved import read_json
from longtail.evaluation.score_maps import ScoreMap, apply_score_maps, from_json, to_json
from longtail.utils.io import write_json

FORMAT = 1
EXPECTED = "a file that longtail calibrate has written"


@dataclass(frozen=True)
class Calibration:
    """Fitted maps.

    Attributes:
        method: one of :data:`~longtail.evaluation.score_maps.METHODS`.
        dataset: the registered name of the images that it was fitted to.
        class_names: K names.
        maps: K maps of scores.
    """

    method: str
    dataset: str
    class_names: tuple[str, ...]
    maps: Sequence[ScoreMap]

    def __call__(self, classes: npt.ArrayLike, scores: npt.ArrayLike) -> np.ndarray:
        """Map (N,) scores of (N,) classes to (N,) float64 probabilities."""
        return apply_score_maps(self.maps, classes, scores)

    def write(self, path: str | os.PathLike) -> None:
        """Write the file, whole or not at all."""
        content = {
            "format": FORMAT,
            "method": self.method,
            "dataset": self.dataset,
            "class_names": list(self.class_names),
            "maps": to_json(self.maps),
        }
        write_json(path, content)

    def check(self, path: str, class_names: Sequence[str], test_sets: Sequence[str]) -> None:
        """Refuse other classes, and to evaluate on what it was fitted to.

        Args:
            path: its file, for the messages.
            class_names: of the predictions.
            test_sets: registered names of what is evaluated.

        Raises:
            ValueError: either is so.
        """
        if tuple(class_names) != self.class_names:
            raise ValueError(
                f"{path} is of {len(self.class_names)} classes, {', '.join(self.class_names[:3])} "
                f"..., not of the {len(class_names)} that are calibrated: fit one to their "
                "predictions with longtail calibrate"
            )
        if self.dataset in test_sets:
            raise ValueError(
                f"{path} was fitted to {self.dataset}, which is evaluated: what is reported must "
                "not be seen before, name another test set or fit on validation images"
            )


def read_calibration(path: str) -> Calibration:
    """Read the file of a calibration.

    Args:
        path: the file.

    Raises:
        ValueError: it is not one, or damaged.
        OSError: it cannot be read.
    """
    content = read_json(path, EXPECTED)
    known = isinstance(content, dict) and content.get("format") == FORMAT
    texts = [content.get("method"), content.get("dataset")] if known else []
    names = content.get("class_names") if known else None
    if not (
        known
        and all(isinstance(text, str) for text in texts)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"{path} is no calibration of this version: name {EXPECTED}")
    try:
        maps = from_json(content.get("maps"))
        if len(maps) != len(names):
            raise ValueError(f"{len(maps)} maps for {len(names)} classes")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): name {EXPECTED}") from None
    return Calibration(*texts, tuple(names), maps)
