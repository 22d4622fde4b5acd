# SPDX-License-Identifier: Apache-2.0
"""Every method on long-tailed image classification: real digits and generated images, five seeds.

    python benchmarks/classification.py
    python benchmarks/classification.py --split val --seeds 100 101 102   # to choose recipes on

The methods are the configs in ``configs/digits-LT`` and ``configs/synthetic-LT``. A seed draws the
images, which classes are rare, and the networks. Second stages and post hoc methods start from the
first stage of their seed. First stages have one recipe and budget, and so have second stages;
``linear_longer`` is the baseline with the iterations of both. What had to be chosen was chosen on
the validation images of other seeds than those reported, every run is evaluated on test once, at
its end. Stopped, it keeps what it finished: the same command continues.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from common import ROOT, save_result
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate
from training_runs import Run, check_same, compare, comparison_rows, parallel_runs

from longtail.config import deployed_config, load_config
from longtail.data.datasets import register_all
from longtail.data.prepare import prepare_dataset
from longtail.data.synthetic import write_classification_dataset
from longtail.engine import Trainer
from longtail.engine.checkpoint import CompleteCheckpointer
from longtail.engine.deployment.post_hoc import apply_post_hoc
from longtail.utils.io import atomic_write

# Folder of configs -> name of the data set.
DATASETS = {"digits-LT": "digits_lt", "synthetic-LT": "synthetic_lt"}
BASELINE = "linear"
GROUPS = ("many", "medium", "few")


@dataclass(frozen=True)
class Job:
    """A method on a data set, with a seed; ``output`` is the folder of all runs."""

    benchmark: str
    method: str
    seed: int
    split: str
    output: Path

    @property
    def run(self) -> Run:
        """Config, folder, options and result."""
        test = f"{DATASETS[self.benchmark]}_{self.split}"
        options = ["SEED", str(self.seed), "DATASETS.TEST", f"('{test}',)"]
        # A worker of its own would cost more than it saves in runs of half a minute.
        options += ["DATALOADER.NUM_WORKERS", "0"]
        config = ROOT / "configs" / self.benchmark / f"{self.method}.yaml"
        first = first_stage(config)
        if first:
            weights = self.output / self._name(first) / "model_final.pth"
            options += ["MODEL.WEIGHTS", str(weights)]
        return Run(
            name=f"{self.benchmark}, {self.method}, seed {self.seed}",
            config=config,
            folder=self.output / self._name(self.method),
            result=f"inference/{test}/classification_evaluation.json",
            options=tuple(options),
        )

    def _name(self, method: str) -> str:
        return f"{self.benchmark}_{method}_seed{self.seed}"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--methods", nargs="+", help="configs; by default all of the folder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--output", default="output/classification", help="data, runs and logs")
    parser.add_argument("--result", default="classification", help="file in benchmarks/results")
    return parser.parse_args()


def first_stage(config: Path) -> str:
    """The config that a second stage or a post hoc method starts from, by name; "" if none."""
    weights = load_config(str(config)).MODEL.WEIGHTS
    return Path(weights).parent.name if weights else ""


def methods(benchmark: str) -> list[str]:
    """The names of a folder's configs, the baseline first."""
    names = sorted(path.stem for path in (ROOT / "configs" / benchmark).glob("[!B]*.yaml"))
    return sorted(names, key=lambda name: name != BASELINE)


def prepare(folder: Path, benchmark: str, seed: int) -> None:
    """Make the data set of a seed."""
    if benchmark == "digits-LT":
        problems = prepare_dataset("digits_lt", str(folder), seed=seed).problems
        if problems:
            raise SystemExit(f"error: {problems[0]}")
    else:
        write_classification_dataset(folder / "synthetic_lt", seed=seed)


def perform(job: Job) -> dict:
    """Train and evaluate, unless that is done; the evaluator's report."""
    torch.set_num_threads(parallel_runs()[1])
    run = job.run
    check_same(run)
    report = run.folder / run.result
    if not report.is_file():
        register_all(str(job.output / "datasets" / f"seed{job.seed}"))
        cfg = load_config(str(run.config), [*run.options, "OUTPUT_DIR", str(run.folder)])
        cfg.freeze()
        run.folder.mkdir(parents=True, exist_ok=True)
        seed_all_rng(job.seed)
        evaluate(cfg) if cfg.MODEL.POST_HOC.METHOD else fit(cfg)
        with atomic_write(run.folder / "config.yaml") as file:
            file.write(cfg.dump())
        print(f"{run.name}: {json.loads(report.read_text())['mean_acc']:.1f}", flush=True)
    return json.loads(report.read_text())


def fit(cfg: CfgNode) -> None:
    """Train; the evaluation is at the end."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


def evaluate(cfg: CfgNode) -> None:
    """Evaluate a trained model as MODEL.POST_HOC changes it."""
    model = Trainer.build_model(deployed_config(cfg))
    CompleteCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    apply_post_hoc(cfg, model)
    Trainer.test(cfg, model)


def figures(report: dict) -> dict[str, float]:
    """Class-balanced accuracy in percent, over all classes and by group."""
    return {
        "average": report["mean_acc"],
        **{group: report["groups"][group]["mean_acc"] for group in GROUPS},
        "top-1": report["top1"],
    }


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    output = Path(arguments.output).resolve()
    chosen = {b: arguments.methods or methods(b) for b in arguments.benchmarks}
    for benchmark in chosen:
        for seed in arguments.seeds:
            prepare(output / "datasets" / f"seed{seed}", benchmark, seed)
    jobs = [
        Job(benchmark, method, seed, arguments.split, output)
        for seed in arguments.seeds
        for benchmark in chosen
        for method in chosen[benchmark]
    ]
    reports = {}
    with ProcessPoolExecutor(parallel_runs()[0], get_context("spawn")) as pool:
        # What starts from a first stage needs its checkpoint.
        for first in (True, False):
            now = [job for job in jobs if bool(first_stage(job.run.config)) != first]
            reports |= dict(zip(now, pool.map(perform, now), strict=True))
    result = {}
    for benchmark, names in chosen.items():
        runs = {
            m: [figures(reports[j]) for j in jobs if (j.benchmark, j.method) == (benchmark, m)]
            for m in names
        }
        result[benchmark] = summarized(benchmark, runs)
    save_result(arguments.result, {"seeds": arguments.seeds, "split": arguments.split, **result})


def summarized(benchmark: str, runs: dict[str, list[dict[str, float]]]) -> dict:
    """What is kept of a data set's runs; the comparison is printed, the best method first."""
    folder = ROOT / "configs" / benchmark
    paired = [m for m in runs if first_stage(folder / f"{m}.yaml") == BASELINE]
    summary = compare(runs, BASELINE, paired)
    by_method = {
        method: {key: of[method] for key, of in summary.items()}
        for method in sorted(runs, key=lambda m: -summary["average"][m][0])
    }
    print(f"\n{benchmark}, {len(runs[BASELINE])} seeds")
    print(tabulate(comparison_rows(by_method), headers=["percent", *summary]))
    return {
        "configs": os.path.relpath(folder, ROOT),
        "mean and standard deviation over seeds; difference and its standard error": summary,
        "runs": runs,
    }


if __name__ == "__main__":
    main()
