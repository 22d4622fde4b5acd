"""Baseline and Region Rebalance on CamVid: several seeds, equal budgets, one command.

    python benchmarks/camvid.py --data path/to/camvid

``--data`` holds the SegNet layout ({train,val} images and {train,val}annot label maps). Stopped, it
keeps what it finished: the same command continues. Nothing is tuned on val: the recipe was chosen
for the baseline on a part of the training set, lambda is the paper's, and every run is evaluated
once, at its end.
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from common import ROOT, save_result
from detectron2.config import CfgNode
from tabulate import tabulate
from training_runs import Run, compare, parallel_runs, train

sys.path.insert(0, str(ROOT))

from longtail.data.prepare import prepare_dataset
from train_net import load_config

METHODS = ("baseline", "rr")
DATASET = "camvid_sem_seg_val"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CamVid in SegNet's layout")
    parser.add_argument("--output", default="output/camvid_benchmark", help="runs and logs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, help="of every run; by default as configured")
    return parser.parse_args()


def config_of(method: str) -> Path:
    """ResNet-50c where there is a GPU, otherwise EfficientNet-Lite0."""
    model = "deeplabv3plus_R_50c" if torch.cuda.is_available() else "deeplabv3plus_lite0"
    ending = "" if method == "baseline" else f"_{method}"
    return ROOT / "configs" / "CamVid" / f"{model}{ending}.yaml"


def run_config(method: str, arguments: argparse.Namespace) -> CfgNode:
    """The config of a run."""
    iterations = arguments.iterations
    overrides = ["SOLVER.MAX_ITER", str(iterations)] if iterations else []
    return load_config(str(config_of(method)), overrides)


def planned_run(method: str, seed: int, arguments: argparse.Namespace) -> Run:
    """One training of a method."""
    options = ["SEED", str(seed), "SOLVER.CHECKPOINT_PERIOD", "100"]
    if arguments.iterations:
        options += ["SOLVER.MAX_ITER", str(arguments.iterations)]
    return Run(
        name=f"{method}, seed {seed}",
        config=config_of(method),
        folder=Path(arguments.output).resolve() / f"{method}_seed{seed}",
        result=f"inference/{DATASET}/sem_seg_evaluation.json",
        options=tuple(options),
    )


def figures(report: dict) -> dict[str, float]:
    """The figures of one run, in percent, flat."""
    values = {key: report[key] for key in ("mIoU", "mAcc", "aAcc")}
    values |= {f"mIoU {group}": value["mIoU"] for group, value in report["groups"].items()}
    values |= {f"mAcc {group}": value["mAcc"] for group, value in report["groups"].items()}
    values |= {f"IoU {row['name']}": row["IoU"] for row in report["classes"]}
    return values | {f"Acc {row['name']}": row["Acc"] for row in report["classes"]}


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    output = Path(arguments.output).resolve()
    try:
        prepared = prepare_dataset("camvid", str(output / "datasets"), source=arguments.data)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    if prepared.problems:
        raise SystemExit(f"error: {prepared.problems[0]}")
    parallel, threads = parallel_runs()
    jobs = [(method, seed) for seed in arguments.seeds for method in METHODS]
    with ThreadPoolExecutor(parallel) as pool:
        results = list(
            pool.map(
                lambda job: train(planned_run(*job, arguments), output / "datasets", threads), jobs
            )
        )
    reports = {
        m: [r for (method, _), r in zip(jobs, results, strict=True) if method == m] for m in METHODS
    }
    summary = compare({m: [figures(report) for report in reports[m]] for m in METHODS}, "baseline")
    rows = [
        [key, *(f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in value.values())]
        for key, value in summary.items()
    ]
    print(tabulate(rows, headers=["percent", *METHODS, "difference ± std. error"]))
    save_result(
        "camvid_gpu" if torch.cuda.is_available() else "camvid",
        {
            "configs": {m: os.path.relpath(config_of(m), ROOT) for m in METHODS},
            "iterations": run_config("baseline", arguments).SOLVER.MAX_ITER,
            "seeds": arguments.seeds,
            "groups": {
                group: [row["name"] for row in reports["rr"][0]["classes"] if row["group"] == group]
                for group in reports["rr"][0]["groups"]
            },
            "mean and standard deviation over seeds; difference and its standard error": summary,
            "runs": {m: [figures(report) for report in reports[m]] for m in METHODS},
        },
    )


if __name__ == "__main__":
    main()
