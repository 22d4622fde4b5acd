# SPDX-License-Identifier: Apache-2.0
"""The classes of each image and their areas: everything that images have in common.

Shapes: N images, K classes, S stuff classes, K - S thing classes.
"""

import numpy as np

from longtail.data.formats.generated import SPLITS
from longtail.data.synthetic.config import MAX_THING_SHARE, SceneConfig, SyntheticConfig

# Iterations of the alternating scaling below; it changes nothing visible after about 30.
_SCALINGS = 100


def scene_generator(config: SceneConfig, split: str, index: int) -> np.random.Generator:
    """The random numbers of one image, independent of every other image.

    Args:
        config: its ``seed`` is used.
        split: ``"train"`` or ``"val"``.
        index: number of the image within its split, from 0.
    """
    # 0 is the plan's own stream: a seed sequence does not tell (a, b) from (a, b, 0).
    return np.random.default_rng((config.seed, _split_number(split), index + 1))


def plan_split(config: SyntheticConfig, num_images: int, split: str) -> np.ndarray:
    """Draw the share of each image that each class shall cover.

    Image counts are exact: class c has ``n_c`` non-zero entries (see
    :class:`~longtail.data.synthetic.SyntheticConfig`).

    Args:
        config: the data set.
        num_images: N.
        split: ``"train"`` or ``"val"`` (the latter raises n_c to ``config.min_val_images``).

    Returns:
        (N, K) float64 areas as shares of the image, 0 where absent; each row sums to 1.

    Raises:
        ValueError: N is too small for the rarest class to appear at all (train), or in
            ``min_val_images`` images (val).
    """
    counts = _image_counts(config, num_images, split)
    rng = plan_generator(config, split)
    present = draw_presence(counts, num_images, rng)
    # Sizes vary from image to image (log-normal), around the mean that the law gives.
    areas = present * rng.lognormal(sigma=0.4, size=present.shape)
    totals = counts * config.mean_areas
    stuff, things = areas[:, : config.num_stuff], areas[:, config.num_stuff :]
    things = _scale(things, totals[config.num_stuff :], np.full(num_images, MAX_THING_SHARE), True)
    left = 1 - things.sum(axis=1)
    stuff_totals = totals[: config.num_stuff] / totals[: config.num_stuff].sum() * left.sum()
    return np.concatenate([_scale(stuff, stuff_totals, left, False), things], axis=1)


def plan_generator(config: SceneConfig, split: str) -> np.random.Generator:
    """The random numbers of what images have in common, independent of every image's own.

    Args:
        config: its ``seed`` is used.
        split: ``"train"`` or ``"val"``.
    """
    return np.random.default_rng((config.seed, _split_number(split), 0))


def draw_presence(counts: np.ndarray, num_images: int, rng: np.random.Generator) -> np.ndarray:
    """Draw which images a class is in, of each class anew.

    Args:
        counts: (K,) images with each class.
        num_images: N.
        rng: source of random numbers.

    Returns:
        (N, K) bool.
    """
    present = np.zeros((num_images, len(counts)), dtype=bool)
    for class_id, count in enumerate(counts):
        present[rng.permutation(num_images)[:count], class_id] = True
    return present


def _image_counts(config: SyntheticConfig, num_images: int, split: str) -> np.ndarray:
    if _split_number(split) == 0:
        if num_images < config.region_imbalance:
            raise ValueError(
                f"{num_images} training images are too few for region_imbalance "
                f"{config.region_imbalance:g}: the rarest class would be in none of them; make at "
                "least as many images as region_imbalance, or lower it"
            )
        floor = 1
    else:
        floor = config.min_val_images
        if num_images < floor:
            raise ValueError(
                f"{num_images} validation images are too few: each class shall be in at least "
                f"min_val_images = {floor} of them; make more images or lower min_val_images"
            )
    counts = np.rint(num_images * float(config.region_imbalance) ** -config.tail_position)
    return np.maximum(counts.astype(np.int64), floor)


def _scale(
    areas: np.ndarray, column_sums: np.ndarray, row_sums: np.ndarray, rows_may_be_less: bool
) -> np.ndarray:
    """Scale columns and rows in turn until both sums hold (iterative proportional fitting).

    The rows are scaled last and hold exactly; with ``rows_may_be_less`` only too large ones are.
    """
    for _ in range(_SCALINGS):
        areas = areas * (column_sums / areas.sum(axis=0))
        # A row without any thing has nothing to scale.
        factor = row_sums / np.maximum(areas.sum(axis=1), 1e-12)
        areas = areas * (np.minimum(factor, 1) if rows_may_be_less else factor)[:, None]
    return areas


def _split_number(split: str) -> int:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    return SPLITS.index(split)
