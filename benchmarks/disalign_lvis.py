# SPDX-License-Identifier: Apache-2.0
"""DisAlign on long-tailed instances: stage 1, stage 1 + stage 2, repeat factor sampling.

    python benchmarks/disalign_lvis.py                          # generated scenes, three seeds
    python benchmarks/disalign_lvis.py --camvid path/to/camvid  # CamVid's instances, one seed

Each for the linear and the cosine classifier. The second stage of a seed continues the first
stage of the same seed, with nothing to propagate back through the detector. On the generated
scenes nothing is tuned on val: the recipes of both stages were chosen on images held out of train,
with the linear classifier; rho is the paper's; every run is evaluated once, at its end. Stopped,
it keeps what it finished: the same command continues.
"""

import argparse
import os
from pathlib import Path

import torch
from common import ROOT, save_result
from tabulate import tabulate
from training_runs import Run, compare, comparison_rows, parallel_runs, run_all, train

from longtail.data.prepare import prepare_dataset
from longtail.data.synthetic.lvis import write_lvis_dataset

CLASSIFIERS = ("linear", "cosine")
METHODS = ("baseline", "rfs", "disalign")
METRICS = ("AP", "APr", "APc", "APf", "AP50")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", help="CamVid in SegNet's layout, instead of generated scenes")
    parser.add_argument("--output", default="output/disalign_benchmark", help="runs and logs")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0 1 2; CamVid: 0")
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, datasets: Path) -> str:
    """Make the data set under ``datasets``; returns its folder of configs."""
    try:
        if arguments.camvid is None:
            write_lvis_dataset(
                datasets / "lvis_synthetic", 1200, 300, num_workers=parallel_runs()[0]
            )
            return "LVIS-Synthetic"
        for name, source in (("camvid", arguments.camvid), ("camvid_instances", None)):
            prepared = prepare_dataset(name, str(datasets), source=source)
            if prepared.problems:
                raise ValueError(prepared.problems[0])
        return "LVIS-CamVid"
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


def planned_run(name: str, seed: int, benchmark: str, output: Path) -> Run:
    """The training of a method with a classifier, such as ``cosine disalign``.

    R50 where there is a GPU, otherwise EfficientNet-Lite0.
    """
    classifier, method = name.split()
    model = "mask_rcnn_R_50_FPN" if torch.cuda.is_available() else "mask_rcnn_lite0_FPN"
    parts = [model, *(p for p in (classifier, method) if p not in ("linear", "baseline"))]
    data = "synthetic" if benchmark == "LVIS-Synthetic" else "camvid"
    options = ["SEED", str(seed), "SOLVER.CHECKPOINT_PERIOD", "200"]
    if method == "disalign":
        first = output / f"{classifier}_baseline_seed{seed}" / "model_final.pth"
        options += ["MODEL.WEIGHTS", str(first)]
    return Run(
        name=f"{benchmark}, {name}, seed {seed}",
        config=ROOT / "configs" / benchmark / f"{'_'.join(parts)}.yaml",
        folder=output / f"{classifier}_{method}_seed{seed}",
        result=f"inference/lvis_{data}_val/lvis_evaluation.json",
        options=tuple(options),
    )


def figures(report: dict) -> dict[str, float]:
    """The figures of one run, in percent, flat: ``box AP`` .. ``mask APf``."""
    tasks = {"box": "bbox", "mask": "segm"}
    return {f"{task} {m}": report["tasks"][key][m] for task, key in tasks.items() for m in METRICS}


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    output = Path(arguments.output).resolve()
    benchmark = prepare(arguments, output / "datasets")
    output = output / benchmark
    seeds = arguments.seeds or ([0] if arguments.camvid else [0, 1, 2])
    threads = parallel_runs()[1]

    def start(name: str, seed: int) -> dict:
        return train(
            planned_run(name, seed, benchmark, output), output.parent / "datasets", threads
        )

    names = [f"{classifier} {method}" for classifier in CLASSIFIERS for method in METHODS]
    # The second stages need the first ones' checkpoints.
    reports = run_all([name for name in names if "disalign" not in name], seeds, start)
    reports |= run_all([name for name in names if "disalign" in name], seeds, start)
    result = {}
    for classifier in CLASSIFIERS:
        runs = {m: [figures(r) for r in reports[f"{classifier} {m}"]] for m in METHODS}
        summary = compare(runs, "baseline", paired=["disalign"])
        headers = [f"{classifier}, percent", *summary["box AP"]]
        print(tabulate(comparison_rows(summary), headers=headers), end="\n\n")
        result[classifier] = {
            "configs": {
                m: os.path.relpath(
                    planned_run(f"{classifier} {m}", 0, benchmark, output).config, ROOT
                )
                for m in METHODS
            },
            "mean and standard deviation over seeds; difference and its standard error": summary,
            "runs": runs,
        }
    name = "disalign_lvis_" + ("camvid" if arguments.camvid else "synthetic")
    save_result(name + ("_gpu" if torch.cuda.is_available() else ""), {"seeds": seeds, **result})


if __name__ == "__main__":
    main()
