# SPDX-License-Identifier: Apache-2.0
r"""The metrics of a run on a validation set, iteration by iteration: is its training long enough?

longtail train --config-file CCP/deeplabv3plus_lite0.yaml OUTPUT_DIR output/curve \
        DATASETS.TEST "('ccp_sem_seg_val',)" TEST.EVAL_PERIOD 500
python benchmarks/validation_curve.py output/curve --prefix sem_seg/m --result ccp_curve
"""

import argparse
import json
from pathlib import Path

import yaml
from common import save_result
from tabulate import tabulate

from longtail.utils.errors import ending_in_one_line


def read_curve(run: Path, prefix: str) -> list[dict[str, float]]:
    """The evaluations of a run.

    Args:
        run: its folder, with ``metrics.json`` and ``config.yaml``.
        prefix: of the metrics that are wanted.

    Returns:
        For each evaluation the iterations before it and the metrics.

    Raises:
        ValueError: no evaluation has such a metric.
        OSError: there is no such run.
    """
    last = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["SOLVER"]["MAX_ITER"]
    curve = []
    for line in (run / "metrics.json").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found = {name: value for name, value in row.items() if name.startswith(prefix)}
        if found:
            # The evaluation after the training is logged at its end, others an iteration before.
            curve.append({"iterations": min(row["iteration"] + 1, last), **found})
    if not curve:
        raise ValueError(
            f"{run}/metrics.json has no metric that begins with {prefix!r}: train with "
            "TEST.EVAL_PERIOD, or name another --prefix"
        )
    return curve


def main() -> None:
    """Print and save the curve, and what its last step gained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of a run with TEST.EVAL_PERIOD")
    parser.add_argument("--prefix", default="sem_seg/m", help="of the metrics")
    parser.add_argument("--result", required=True, help="name of the results file")
    arguments = parser.parse_args()
    with ending_in_one_line():
        curve = read_curve(arguments.run, arguments.prefix)
    print(tabulate(curve, headers="keys", floatfmt=".2f"))
    save_result(arguments.result, {"curve": curve})


if __name__ == "__main__":
    main()
