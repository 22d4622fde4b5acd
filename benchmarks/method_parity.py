# SPDX-License-Identifier: Apache-2.0
"""Whether every method computes what its authors define: values, gradients, frequencies.

    python -m benchmarks.method_parity

Each loss, sampler, post hoc method and second stage that ``longtail methods`` lists is compared, on
each of its tasks, with a package that has it, or with its formula in float64, which is written down
independently in tests/references. Sizes are 7 and 1,203 classes, seeds are fixed, inputs float64.
What has constants in float32, such as class weights, has a bound of its own. The result is
benchmarks/results/method_parity.json, from which tools/method_table.py writes the table of
docs/methods.md.
"""

import argparse
import sys
from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.common import save_result
from benchmarks.parity import Comparison
from benchmarks.parity_losses import SIZES, compare_losses
from benchmarks.parity_samplers import compare_samplers
from benchmarks.parity_scores import compare_scores
from benchmarks.parity_stages import compare_stages


def compare_all(sizes: Sequence[int] = tuple(SIZES)) -> list[Comparison]:
    """All comparisons.

    Args:
        sizes: numbers of classes, of 7 and 1203.
    """
    parts = (compare_losses, compare_samplers, compare_scores, compare_stages)
    return [row for compare in parts for row in compare(sizes)]


def excess(row: Comparison) -> str:
    """What is wrong with a comparison: a difference above its bound; empty if nothing is."""
    worst = max(row.value, row.gradient or 0.0)
    if worst <= row.bound:
        return ""
    return f"{row.kind} {row.method}, {row.task}: {worst:.1e}, expected at most {row.bound:.0e}"


def main() -> None:
    """Compare, print, save.

    Raises:
        ValueError: a difference is above its bound; nothing is saved then.
    """
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    rows = compare_all()
    print(tabulate([row._asdict() for row in rows], headers="keys", floatfmt=".1e"))
    wrong = [line for line in map(excess, rows) if line]
    if wrong:
        raise ValueError("; ".join(wrong))
    save_result(
        "method_parity",
        {
            "figure": "max |ours - other| / max |other|, the largest of all batches and sizes",
            "comparisons": [row._asdict() for row in rows],
        },
    )


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
