# SPDX-License-Identifier: Apache-2.0
"""Scenes of real handwritten digits on textures, with a long tail, for semantic segmentation.

root/images/{train,val,test}/synthetic_{train,val,test}_000000.png
root/labels/{train,val,test}/synthetic_{train,val,test}_000000.png
root/meta.json    written last: where it is, the data set is whole

The digits are scikit-learn's, on cards of paper that lie on any ground; all of a card is labelled.
A scene shows a digit once or not at all. In training the k-th most frequent digit is in
round(N * imbalance ** (-k / 9)) of N scenes; in testing all are in equally many. The digits of
training, validation and testing are different images, written by 43 people in all.

Shapes: N scenes, 11 classes: the digits 0 to 9, and the ground.
"""

import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from longtail.data.formats.digits import NUM_DIGITS, WHITE, load_digits, split_digits
from longtail.data.formats.generated import (
    DIGIT_CLASSES,
    DIGIT_SPLITS,
    FORMAT_VERSION,
    digit_folders,
    read_meta,
)
from longtail.data.statistics.groups import thirds_by_rank
from longtail.data.synthetic.scene import colorize, photograph
from longtail.data.synthetic.textures import STUFF_TEXTURES, texture_field
from longtail.data.synthetic.write import drawn, remove_generated_files, write_image
from longtail.utils.io import write_json

KIND = "digit_scenes"
GROUND = NUM_DIGITS
SIDE = 72
# A scene of val or test shows three digits.
VAL_SCENES = 50
TEST_SCENES = 100
DIGITS_A_SCENE = 3
# With less the scenes would be too full.
MIN_IMBALANCE = 20.0
# What scikit-learn's splits of digits are called.
_POOLS = {"train": "balanced", "val": "val", "test": "test"}
# The side of a card in pixels of the scene, its margin in those of the digit, and how far it is
# turned (in degrees).
_CARD_SIDE, _MARGIN, _TURN = (23.0, 27.0), 1, 12.0
_PLACES, _LAYOUTS = 50, 50


@dataclasses.dataclass(frozen=True)
class DigitScenesConfig:
    """Description of a data set.

    Attributes:
        num_train: N, training scenes, at least ``imbalance``; the most frequent digit is in all.
        imbalance: scenes of the most frequent digit over those of the rarest, at least 20.
        seed: non-negative; decides which digit is how frequent, too.

    Raises:
        ValueError: a value is out of its range.
    """

    num_train: int = 300
    imbalance: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not MIN_IMBALANCE <= self.imbalance < math.inf:
            raise ValueError(f"imbalance must be at least {MIN_IMBALANCE:g}, got {self.imbalance}")
        if self.num_train < self.imbalance:
            raise ValueError(
                f"num_train must be at least imbalance ({self.imbalance:g}), or the rarest digit "
                f"would be in no scene; got {self.num_train}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    def num_scenes(self, split: str) -> int:
        """N of one of ``DIGIT_SPLITS``."""
        return {"train": self.num_train, "val": VAL_SCENES, "test": TEST_SCENES}[split]

    def digit_counts(self, split: str) -> np.ndarray:
        """(10,) int64: scenes that each digit is in."""
        if split != "train":
            return np.full(NUM_DIGITS, self.num_scenes(split) * DIGITS_A_SCENE // NUM_DIGITS)
        place = np.random.default_rng(self.seed).permutation(NUM_DIGITS)
        decay = self.imbalance ** (-place / (NUM_DIGITS - 1))
        return np.rint(self.num_train * decay).astype(np.int64)


def write_digit_scenes(
    root: str | os.PathLike, config: DigitScenesConfig | None = None, num_workers: int = 1
) -> dict[str, Any]:
    """Generate a data set, unless ``root`` already holds this very one.

    The files depend on the arguments alone, not on ``num_workers``. Another generated data set in
    ``root`` is removed first, also one whose generation was interrupted.

    Args:
        root: the data set's folder; made if missing.
        config: the data set; the default config if None.
        num_workers: processes; up to 1 means the calling one. With more, a script needs the usual
            ``if __name__ == "__main__"`` guard.

    Returns:
        The content of ``meta.json``: ``format_version``, ``kind``, ``config``, ``classes`` (11
        names), ``class_groups`` (head, body and tail), ``image_count`` (per split, 11
        numbers).

    Raises:
        ValueError: ``root`` contains files that were not generated (nothing is removed then).
        ImportError: scikit-learn, which holds the digits, is not installed.
    """
    config = config or DigitScenesConfig()
    root = Path(root)
    counts = {s: [*config.digit_counts(s).tolist(), config.num_scenes(s)] for s in DIGIT_SPLITS}
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "config": dataclasses.asdict(config),
        "classes": list(DIGIT_CLASSES),
        # The ground, which is everywhere, comes before a digit that is.
        "class_groups": thirds_by_rank([GROUND, *np.argsort(-config.digit_counts("train"))]),
        "image_count": counts,
    }
    if read_meta(root) == meta:
        return meta
    jobs = [job for split in DIGIT_SPLITS for job in _jobs(config, split)]
    folders = [folder for split in DIGIT_SPLITS for folder in digit_folders(root, split)]
    remove_generated_files(root, folders, KIND)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    write = functools.partial(_write_scene, root, config)
    for _ in tqdm(drawn(write, jobs, num_workers), "Generating scenes", len(jobs), unit="image"):
        pass
    write_json(root / "meta.json", meta)
    return meta


def plan_scenes(config: DigitScenesConfig, split: str) -> np.ndarray:
    """Choose the images of the digits of each scene.

    Every digit goes to the scenes that have the fewest so far. It is a new image in each of them,
    as long as there are: 104 of each digit in training, 20 in validation, 50 in testing.

    Args:
        config: the data set.
        split: one of ``DIGIT_SPLITS``.

    Returns:
        (N, 10) int64: which of scikit-learn's images shows the digit, -1 where it is absent.
    """
    labels = load_digits(KIND).target
    rng = _rng(config, split, 0)
    pool = split_digits(labels, config.seed)[_POOLS[split]]
    counts = config.digit_counts(split)
    plan = np.full((config.num_scenes(split), NUM_DIGITS), -1)
    for digit in rng.permutation(NUM_DIGITS):
        order = rng.permutation(len(plan))
        fewest = np.argsort((plan[order] >= 0).sum(axis=1), kind="stable")
        images = rng.permutation(pool[labels[pool] == digit])
        plan[order[fewest[: counts[digit]]], digit] = np.resize(images, counts[digit])
    return plan


def generate_digit_scene(
    images: dict[int, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        images: (8, 8) ink in 0..16 of each digit that it shows.
        rng: source of random numbers.

    Returns:
        (72, 72, 3) uint8 RGB, and (72, 72) uint8 of classes.

    Raises:
        ValueError: there is no room for so many digits.
    """
    shape = (SIDE, SIDE)
    texture = list(STUFF_TEXTURES.values())[rng.integers(len(STUFF_TEXTURES))]
    period, angle = SIDE * rng.uniform(0.08, 0.2), rng.uniform(0, 2 * np.pi)
    canvas = colorize(texture_field(texture, shape, period, angle, rng), rng)
    labels = np.full(shape, GROUND, dtype=np.uint8)
    for (digit, image), card in zip(images.items(), _layout(len(images), rng), strict=True):
        opacity, ink = _drawn_card(card, image)
        paper, pen = rng.uniform(0.7, 1.0) * rng.uniform(0.8, 1.0, 3), rng.uniform(0.0, 0.3, 3)
        colors = paper * (1 - ink[..., None]) + pen * ink[..., None]
        canvas = canvas * (1 - opacity[..., None]) + colors * opacity[..., None]
        labels[opacity >= 0.5] = digit
    return photograph(canvas.astype(np.float32), rng.uniform(0, 2 * np.pi), rng), labels


def _layout(number: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Place cards apart from each other.

    Returns:
        The affine map of each, (2, 3), from the 8 x 8 pixels of a digit to the scene.
    """
    for _ in range(_LAYOUTS):
        cards, taken = [], np.zeros((SIDE, SIDE), dtype=bool)
        for _ in range(_PLACES):
            if len(cards) == number:
                return cards
            card = _card(rng)
            inside = _drawn_card(card)[0] > 0
            if not (taken & inside).any():
                cards.append(card)
                taken |= inside
    raise ValueError(f"no room for {number} digits in a scene of {SIDE} x {SIDE} pixels")


def _card(rng: np.random.Generator) -> np.ndarray:
    """Draw size, direction and place of a card: the map of :func:`_layout`."""
    side, turn = rng.uniform(*_CARD_SIDE), np.deg2rad(rng.uniform(-_TURN, _TURN))
    y, x = rng.uniform(side / 2, SIDE - side / 2, 2)
    scale = side / (8 + 2 * _MARGIN)
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    # The center of the 8 x 8 pixels is at (3.5, 3.5).
    return np.array([[cos, -sin, x - 3.5 * (cos - sin)], [sin, cos, y - 3.5 * (sin + cos)]])


def _drawn_card(card: np.ndarray, image: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Opacity of a card and its ink, (72, 72) each, 0..1; without an image there is no ink."""
    ink = np.zeros((8, 8)) if image is None else image / WHITE
    layers = np.stack([np.ones((8 + 2 * _MARGIN,) * 2), np.pad(ink, _MARGIN)], axis=-1)
    shifted = card.copy()
    shifted[:, 2] -= card[:, :2].sum(axis=1) * _MARGIN
    drawn_layers = cv2.warpAffine(layers.astype(np.float32), shifted, (SIDE, SIDE))
    return drawn_layers[..., 0], drawn_layers[..., 1]


def _rng(config: DigitScenesConfig, split: str, number: int) -> np.random.Generator:
    """The random numbers of the plan (0) or of a scene (from 1)."""
    return np.random.default_rng((config.seed, DIGIT_SPLITS.index(split) + 1, number + 1))


def _jobs(config: DigitScenesConfig, split: str) -> list[tuple[str, int, dict[int, np.ndarray]]]:
    """Split, number and digits of each scene."""
    ink = load_digits(KIND).images
    return [
        (split, index, {digit: ink[image] for digit, image in enumerate(row) if image >= 0})
        for index, row in enumerate(plan_scenes(config, split))
    ]


def _write_scene(
    root: Path, config: DigitScenesConfig, job: tuple[str, int, dict[int, np.ndarray]]
) -> None:
    split, index, digits = job
    image, labels = generate_digit_scene(digits, _rng(config, split, index + 1))
    images, maps = digit_folders(root, split)
    name = f"synthetic_{split}_{index:06d}.png"
    write_image(images / name, np.ascontiguousarray(image[..., ::-1]), [])
    write_image(maps / name, labels, [])
