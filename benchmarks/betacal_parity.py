# SPDX-License-Identifier: Apache-2.0
"""Whether our beta calibration finds what betacal, its authors' package, does.

    peers/bin/python -m benchmarks.betacal_parity

The environment ``peers`` is that of mmseg_peers.py, with betacal:

    peers/bin/pip install --no-deps betacal==1.1.0

Both fit a convex problem: the one with the smaller cross-entropy is closer to its solution. betacal
leaves it to scikit-learn's default tolerance, ours goes on to 1e-10; so besides the largest
difference of a probability there is the mean cross-entropy of both. Scores are drawn from beta
distributions: well calibrated ones, too sure ones, and such where the first fit has a negative
slope, which both fit again without it.
"""

import argparse
import sys

import numpy as np
from tabulate import tabulate

from benchmarks.common import save_result
from longtail.evaluation.score_maps import fit_beta

# Of a probability: scikit-learn stops where a step changes little.
BOUND = 1e-3
GRID = np.linspace(0.001, 0.999, 999)
# Of the probability to be right: slopes on log s and -log(1 - s), and the shift.
TRUTH = {
    "calibrated": (1.0, 1.0, 0.0),
    "too sure": (0.4, 0.6, -0.5),
    "no slope on log s": (-0.3, 1.2, 0.2),
    "no slope on log (1 - s)": (1.2, -0.3, 0.2),
}
SIZES = (500, 20_000)


def draw(truth: tuple[float, float, float], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) and whether each is right (N,)."""
    generator = np.random.default_rng(number)
    scores = np.clip(generator.beta(0.8, 1.2, number), 1e-4, 1 - 1e-4)
    a, b, c = truth
    probability = 1 / (1 + np.exp(-(a * np.log(scores) - b * np.log1p(-scores) + c)))
    return scores, generator.random(number) < probability


def cross_entropy(probability: np.ndarray, hits: np.ndarray) -> float:
    """The mean over samples."""
    return float(-np.log(np.where(hits, probability, 1 - probability)).mean())


def compare(name: str, number: int) -> dict[str, float | int | str]:
    """Fit both, and compare them on a grid of scores."""
    from betacal import BetaCalibration

    scores, hits = draw(TRUTH[name], number)
    ours = fit_beta(scores, hits)
    theirs = BetaCalibration().fit(scores, hits)
    return {
        "scores": name,
        "samples": number,
        "probability": float(np.abs(ours(GRID) - theirs.predict(GRID)).max()),
        "cross-entropy, ours": cross_entropy(ours(scores), hits),
        "theirs": cross_entropy(theirs.predict(scores), hits),
    }


def main() -> None:
    """Compare, print, save.

    Raises:
        ValueError: betacal is missing; or a difference is too large, or theirs is the better fit.
    """
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    try:
        rows = [compare(name, number) for name in TRUTH for number in SIZES]
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing: see --help for its environment") from None
    print(tabulate(rows, headers="keys", floatfmt=".3g"))
    for row in rows:
        if row["probability"] > BOUND or row["cross-entropy, ours"] > row["theirs"] + 1e-10:
            raise ValueError(f"beta calibration differs: {row}")
    save_result("betacal_parity", {"bound of a probability": BOUND, "comparisons": rows})


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
