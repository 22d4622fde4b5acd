# SPDX-License-Identifier: Apache-2.0
r"""Baseline and Region Rebalance on CamVid: several seeds, equal budgets, one command.

    python benchmarks/camvid.py --data path/to/camvid
    python benchmarks/camvid.py --data path/to/camvid --seeds 0 --iterations 200 \
        --result camvid_architectures --models fcn_lite0 upernet_swin_T

``--data`` holds the SegNet layout ({train,val} images and {train,val}annot label maps). Stopped, it
keeps what it finished: the same command continues. Nothing is tuned on val: the recipe was chosen
for the baseline on a part of the training set, lambda is the paper's, and every run is evaluated
once, at its end.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from common import ROOT, save_result
from tabulate import tabulate
from training_runs import (
    Run,
    compare,
    comparison_rows,
    parallel_runs,
    sem_seg_figures,
    train,
)

from longtail.config import load_config
from longtail.data.prepare import prepare_dataset

METHODS = ("baseline", "rr")
ON_GPU = torch.cuda.is_available()
DATASET = "camvid_sem_seg_val"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CamVid in SegNet's layout")
    parser.add_argument("--output", default="output/camvid_benchmark", help="runs and logs")
    parser.add_argument(
        "--models",
        nargs="+",
        # ResNet-50c where there is a GPU, otherwise EfficientNet-Lite0.
        default=["deeplabv3plus_R_50c" if ON_GPU else "deeplabv3plus_lite0"],
        help="configs in configs/CamVid, each with one that ends in _rr",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, help="of every run; by default as configured")
    parser.add_argument(
        "--result", default="camvid_gpu" if ON_GPU else "camvid", help="file in benchmarks/results"
    )
    return parser.parse_args()


def config_of(model: str, method: str) -> Path:
    """The config of a model with a method."""
    ending = "" if method == "baseline" else f"_{method}"
    return ROOT / "configs" / "CamVid" / f"{model}{ending}.yaml"


def planned_run(model: str, method: str, seed: int, arguments: argparse.Namespace) -> Run:
    """One training of a model with a method."""
    options = ["SEED", str(seed), "SOLVER.CHECKPOINT_PERIOD", "100"]
    if arguments.iterations:
        options += ["SOLVER.MAX_ITER", str(arguments.iterations)]
    return Run(
        name=f"{model}, {method}, seed {seed}",
        config=config_of(model, method),
        folder=Path(arguments.output).resolve() / f"{model}_{method}_seed{seed}",
        result=f"inference/{DATASET}/sem_seg_evaluation.json",
        options=tuple(options),
    )


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
    jobs = [
        planned_run(model, method, seed, arguments)
        for model in arguments.models
        for seed in arguments.seeds
        for method in METHODS
    ]
    with ThreadPoolExecutor(parallel) as pool:
        results = dict(
            zip(
                jobs,
                pool.map(lambda job: train(job, output / "datasets", threads), jobs),
                strict=True,
            )
        )
    save_result(
        arguments.result,
        {model: model_figures(model, arguments, results) for model in arguments.models},
    )


def model_figures(model: str, arguments: argparse.Namespace, results: dict[Run, dict]) -> dict:
    """What is kept of a model's runs; the comparison is printed."""
    reports = {
        method: [results[planned_run(model, method, seed, arguments)] for seed in arguments.seeds]
        for method in METHODS
    }
    runs = {method: [sem_seg_figures(report) for report in reports[method]] for method in METHODS}
    summary = compare(runs, "baseline")
    print(f"\n{model}")
    headers = ["percent", *METHODS, "difference ± std. error"]
    print(tabulate(comparison_rows(summary), headers=headers))
    one_report = reports["rr"][0]
    cfg = load_config(str(config_of(model, "baseline")))
    return {
        "configs": {m: os.path.relpath(config_of(model, m), ROOT) for m in METHODS},
        "iterations": arguments.iterations or cfg.SOLVER.MAX_ITER,
        "seeds": arguments.seeds,
        "groups": {
            group: [row["name"] for row in one_report["classes"] if row["group"] == group]
            for group in one_report["groups"]
        },
        "mean and standard deviation over seeds; difference and its standard error": summary,
        "runs": runs,
    }


if __name__ == "__main__":
    main()
