"""Baseline and Region Rebalance on CamVid: several seeds, equal budgets, one command.

    python benchmarks/camvid.py --data path/to/camvid

``--data`` holds the SegNet layout ({train,val} images and {train,val}annot label maps). Stopped, it
keeps what it finished: the same command continues. Nothing is tuned on val: the recipe was chosen
for the baseline on a part of the training set, lambda is the paper's, and every run is evaluated
once, at its end.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import yaml
from common import ROOT, save_result
from detectron2.config import CfgNode
from tabulate import tabulate

sys.path.insert(0, str(ROOT))

from longtail.data.prepare import prepare_dataset
from longtail.utils.cores import available_cores
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


def run(method: str, seed: int, arguments: argparse.Namespace, threads: int) -> dict:
    """Train and evaluate once, unless that is done; returns the evaluator's report."""
    folder = Path(arguments.output).resolve() / f"{method}_seed{seed}"
    result = folder / "inference" / DATASET / "sem_seg_evaluation.json"
    if (folder / "config.yaml").is_file():
        # What was run before in this folder must be the same run.
        earlier = yaml.safe_load((folder / "config.yaml").read_text())
        wanted = run_config(method, arguments)
        found = (earlier["MODEL"]["TIMM"]["NAME"], earlier["SOLVER"]["MAX_ITER"])
        if found != (wanted.MODEL.TIMM.NAME, wanted.SOLVER.MAX_ITER):
            raise SystemExit(
                f"error: {folder} holds another run ({found[0]}, {found[1]} iterations): name "
                "another --output, or remove it"
            )
    if not result.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(ROOT / "train_net.py"), "--resume"]
        command += ["--config-file", str(config_of(method))]
        command += ["OUTPUT_DIR", str(folder), "SEED", str(seed), "SOLVER.CHECKPOINT_PERIOD", "100"]
        if arguments.iterations:
            command += ["SOLVER.MAX_ITER", str(arguments.iterations)]
        environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(Path(arguments.output).resolve() / "datasets"),
            "OMP_NUM_THREADS": str(threads),
        }
        print(f"{method}, seed {seed}: started, log in {folder}/console.txt", flush=True)
        with open(folder / "console.txt", "w") as log:
            code = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
        if code:
            raise SystemExit(f"error: {method}, seed {seed} failed: see {folder}/console.txt")
    report = json.loads(result.read_text())
    print(f"{method}, seed {seed}: mIoU {report['mIoU']:.2f}", flush=True)
    return report


def figures(report: dict) -> dict[str, float]:
    """The figures of one run, in percent, flat."""
    values = {key: report[key] for key in ("mIoU", "mAcc", "aAcc")}
    values |= {f"mIoU {group}": value["mIoU"] for group, value in report["groups"].items()}
    values |= {f"mAcc {group}": value["mAcc"] for group, value in report["groups"].items()}
    values |= {f"IoU {row['name']}": row["IoU"] for row in report["classes"]}
    return values | {f"Acc {row['name']}": row["Acc"] for row in report["classes"]}


def summarise(reports: dict[str, list[dict]]) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation over seeds (n - 1 in its denominator) and their difference."""
    runs = {method: [figures(report) for report in reports[method]] for method in METHODS}
    summary = {}
    for key in runs["baseline"][0]:
        values = {m: np.array([run[key] for run in runs[m]], dtype=float) for m in METHODS}
        spread = {m: [v.mean(), v.std(ddof=1) if len(v) > 1 else np.nan] for m, v in values.items()}
        # Seeds do not pair the runs: the head's own initialisation shifts all later random draws.
        error = np.sqrt(sum(v.var(ddof=1) / len(v) for v in values.values()))
        difference = values["rr"].mean() - values["baseline"].mean()
        summary[key] = {
            **spread,
            "difference": [difference, error if len(runs["rr"]) > 1 else np.nan],
        }
    return summary


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    try:
        prepared = prepare_dataset(
            "camvid", str(Path(arguments.output).resolve() / "datasets"), source=arguments.data
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    if prepared.problems:
        raise SystemExit(f"error: {prepared.problems[0]}")
    # One GPU takes one run at a time; on CPUs a run a core wastes nothing on synchronisation.
    cores = available_cores()
    parallel, threads = (1, cores) if torch.cuda.is_available() else (cores, 1)
    jobs = [(method, seed) for seed in arguments.seeds for method in METHODS]
    with ThreadPoolExecutor(parallel) as pool:
        results = list(pool.map(lambda job: run(*job, arguments, threads), jobs))
    reports = {
        m: [r for (method, _), r in zip(jobs, results, strict=True) if method == m] for m in METHODS
    }
    summary = summarise(reports)
    rows = [
        [key, *(f"{value[c][0]:.2f} ± {value[c][1]:.2f}" for c in (*METHODS, "difference"))]
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
