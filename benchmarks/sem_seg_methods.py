# SPDX-License-Identifier: Apache-2.0
"""DisAlign, Region Rebalance and both together in semantic segmentation.

    python benchmarks/sem_seg_methods.py --camvid path/to/camvid

On CamVid (SegNet's layout) and on generated scenes, three seeds. ``disalign`` continues the
baseline of its seed, ``rr_disalign`` the run with Region Rebalance; the second stage takes a
quarter of the first one's iterations with the same optimizer. ``baseline_longer`` has as many
iterations in one stage as ``disalign`` in both. Nothing is tuned on what is reported: the recipe
was chosen for the baseline on a part of CamVid's training set, lambda and rho are the papers', and
every run is evaluated once, at its end. Stopped, it keeps what it finished: the same command
continues.
"""

import argparse
import os
from pathlib import Path

from common import ROOT, save_result
from tabulate import tabulate
from training_runs import (
    Run,
    compare,
    comparison_rows,
    parallel_runs,
    run_all,
    sem_seg_figures,
    train,
)

from longtail.config import load_config
from longtail.data.prepare import prepare_dataset
from longtail.data.synthetic import SyntheticConfig, write_dataset

MODEL = "deeplabv3plus_lite0"
# Method -> the method whose run it continues.
METHODS = {
    "baseline": None,
    "rr": None,
    "baseline_longer": None,
    "disalign": "baseline",
    "rr_disalign": "rr",
}
# Folder of configs -> the data set that is evaluated on.
DATASETS = {"CamVid": "camvid_sem_seg_val", "quickstart": "synthetic_sem_seg_val"}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", required=True, help="CamVid in SegNet's layout")
    parser.add_argument("--output", default="output/sem_seg_methods", help="runs and logs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    return parser.parse_args()


def prepare(camvid: str, datasets: Path) -> None:
    """Make both data sets."""
    try:
        prepared = prepare_dataset("camvid", str(datasets), source=camvid)
        if prepared.problems:
            raise ValueError(prepared.problems[0])
        write_dataset(datasets / "synthetic", 400, 120, SyntheticConfig(), parallel_runs()[0])
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


def config_of(dataset: str, method: str) -> Path:
    """The config of a method."""
    name = method.removesuffix("_longer")
    ending = "" if name == "baseline" else f"_{name}"
    return ROOT / "configs" / dataset / f"{MODEL}{ending}.yaml"


def planned_run(dataset: str, method: str, seed: int, output: Path) -> Run:
    """One training."""
    options = ["SEED", str(seed), "SOLVER.CHECKPOINT_PERIOD", "100", "TEST.EXPECTED_RESULTS", "[]"]
    if METHODS[method]:
        first = planned_run(dataset, METHODS[method], seed, output).folder
        options += ["MODEL.WEIGHTS", str(first / "model_final.pth")]
    if method.endswith("_longer"):
        stages = [load_config(str(config_of(dataset, m))) for m in ("baseline", "disalign")]
        options += ["SOLVER.MAX_ITER", str(sum(cfg.SOLVER.MAX_ITER for cfg in stages))]
    return Run(
        name=f"{dataset}, {method}, seed {seed}",
        config=config_of(dataset, method),
        folder=output / f"{dataset}_{method}_seed{seed}",
        result=f"inference/{DATASETS[dataset]}/sem_seg_evaluation.json",
        options=tuple(options),
    )


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    output = Path(arguments.output).resolve()
    prepare(arguments.camvid, output / "datasets")
    threads = parallel_runs()[1]

    def start(name: str, seed: int) -> dict:
        return train(planned_run(*name.split(), seed, output), output / "datasets", threads)

    reports = {}
    # The second stages need the first ones' checkpoints.
    for second in (False, True):
        names = [f"{d} {m}" for d in DATASETS for m in METHODS if bool(METHODS[m]) == second]
        reports |= run_all(names, arguments.seeds, start)
    result = {}
    for dataset in DATASETS:
        runs = {m: [sem_seg_figures(r) for r in reports[f"{dataset} {m}"]] for m in METHODS}
        summary = compare(runs, "baseline", paired=["disalign"])
        shown = {key: of for key, of in summary.items() if not key.startswith(("IoU", "Acc"))}
        headers = [f"{dataset}, percent", *summary["mIoU"]]
        print(tabulate(comparison_rows(shown), headers=headers), end="\n\n")
        result[dataset] = {
            "configs": {m: os.path.relpath(config_of(dataset, m), ROOT) for m in METHODS},
            "mean and standard deviation over seeds; difference and its standard error": summary,
            "with rr": compare({m: runs[m] for m in ("rr", "rr_disalign")}, "rr", ["rr_disalign"]),
            "runs": runs,
        }
    save_result("sem_seg_methods", {"seeds": arguments.seeds, **result})


if __name__ == "__main__":
    main()
