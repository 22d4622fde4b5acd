# SPDX-License-Identifier: Apache-2.0
"""DisAlign on long-tailed instances: stage 1, stage 1 + stage 2, repeat factor sampling.

    python benchmarks/disalign_lvis.py                             # generated scenes, three seeds
    python benchmarks/disalign_lvis.py --camvid path/to/camvid --seeds 1       # CamVid's objects
    python benchmarks/disalign_lvis.py --hued                     # generated scenes, 400 categories

Each for the linear and the cosine classifier. The second stage of a seed continues the first
stage of the same seed, with nothing to propagate back through the detector. On the generated
scenes nothing is tuned on val: the recipes of both stages were chosen on images held out of train,
with the linear classifier; rho is the paper's; every run is evaluated once, at its end. Stopped,
it keeps what it finished: the same command continues.

With 400 categories the 300 detections of an image bind, as on LVIS. A seed draws the scenes and the
networks, and all rows of the folder are run: logit adjustment, tau-norm, DisAlign from the prior,
too. Seeds from 100 on are for choosing sizes and iterations, for the baseline alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from camvid import prepare as prepare_camvid
from rows import Tables, add_table_arguments, folder_rows, run_tables

from longtail.commands.generate import HUED as SCENES
from longtail.data.prepare import prepare_dataset
from longtail.data.synthetic import HuedConfig, write_lvis_dataset
from longtail.jobs.plan import Row
from longtail.utils.cores import available_cores
from longtail.utils.errors import ending_in_one_line

HUED = "LVIS-Hued"
ON_GPU = torch.cuda.is_available()


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--camvid", help="CamVid in SegNet's layout, instead of generated scenes")
    group.add_argument("--hued", action="store_true", help="generated scenes of 400 categories")
    add_table_arguments(parser, output="output/disalign_benchmark")
    return parser.parse_args()


def prepare(camvid: str | None, datasets: Path) -> None:
    """Make the data set under ``datasets``."""
    if camvid is None:
        write_lvis_dataset(datasets / "lvis_synthetic", 1200, 300, num_workers=available_cores())
        return
    prepare_camvid(camvid, datasets)
    prepared = prepare_dataset("camvid_instances", str(datasets))
    if prepared.problems:
        raise ValueError(prepared.problems[0])


def prepare_hued(root: Path, seeds: Sequence[int]) -> None:
    """Make the scenes of 400 categories of each seed, under ``root``."""
    for seed in seeds:
        folder, config = root / f"seed{seed}" / SCENES.name, HuedConfig(seed=seed)
        write_lvis_dataset(folder, SCENES.num_train, SCENES.num_val, config, available_cores())


def tables(folder: str) -> Tables:
    """The rows of both classifiers: R50 where there is a GPU, otherwise EfficientNet-Lite0.

    Args:
        folder: of the configs.
    """
    model = f"{folder}/mask_rcnn_{'R_50' if ON_GPU else 'lite0'}_FPN"
    methods = {"baseline": "", "rfs": "_rfs", "disalign": "_disalign"}
    return {
        classifier: {
            method: Row(f"{model}{kind}{ending}.yaml") for method, ending in methods.items()
        }
        for classifier, kind in (("linear", ""), ("cosine", "_cosine"))
    }


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    root = arguments.output.resolve() / "datasets"
    folder, name = (
        ("LVIS-CamVid", "camvid") if arguments.camvid else ("LVIS-Synthetic", "synthetic")
    )
    if arguments.hued:
        rows, name = {HUED: folder_rows(HUED, None, "faster_rcnn_lite0_FPN")}, "hued"
    else:
        rows = tables(folder)
    with ending_in_one_line():
        if not arguments.dry_run:
            if arguments.hued:
                prepare_hued(root, arguments.seeds)
            else:
                prepare(arguments.camvid, root)
        run_tables(
            f"disalign_lvis_{name}{'_gpu' if ON_GPU else ''}",
            rows,
            arguments,
            options=["SOLVER.CHECKPOINT_PERIOD", "200"],
            datasets=lambda seed: root / f"seed{seed}" if arguments.hued else root,
        )


if __name__ == "__main__":
    main()
