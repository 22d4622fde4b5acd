# SPDX-License-Identifier: Apache-2.0
"""Short runs with metrics of what the tables on real data leave out: samplers and today's models.

    python benchmarks/short_runs.py --seeds 1 [--tables "CCP samplers"] [--iterations 300]

Each row is trained as a user does, all for the same few iterations (second stages for a quarter of
them, warm-up a tenth), and evaluated: CCP on its 100 images of val, IoTKITs-LT on all of val. That
tells that a row runs from the data to its metrics, and what an iteration costs; at this budget
nothing is known of what it does to a tail. EfficientNet-Lite has its ImageNet weights, the vision
transformers and ConvNeXt have RANDOM ones, so that nothing is downloaded: what a frozen one gives
is then a random projection. It needs the extras mask2former and lora. Stopped, it keeps
what it finished: the same command continues.
"""

import argparse

from rows import Tables, add_table_arguments, run_tables

from longtail.jobs.plan import Row
from longtail.utils.errors import ending_in_one_line

SAMPLER = "DATALOADER.SAMPLER_TRAIN"
VAL = ("DATASETS.TEST", "('ccp_sem_seg_val',)")
RANDOM = ("MODEL.TIMM.PRETRAINED", "")
# CLIP's ViT-B/16 on 192 pixels, with the linear classifier that DINOv2 has.
CLIP = (
    *("MODEL.TIMM.NAME", "vit_base_patch16_clip_224.openai", "MODEL.TIMM.IMAGE_SIZE", "192"),
    *("INPUT.CROP.SIZE", "[192, 192]", "TEST.SEM_SEG.CROP_SIZE", "[192, 192]"),
    *("TEST.SEM_SEG.STRIDE", "[128, 128]"),
)
CONVNEXT = ("MODEL.TIMM.NAME", "convnext_atto.d2_in1k", "SOLVER.NO_DECAY_PARAMS", "['gamma']")


def ccp(name: str, *options: str, variant: str = "") -> Row:
    """A row on CCP's images of val; those of test stay unread."""
    return Row(f"CCP/{name}.yaml", (*VAL, *options), variant)


def boards(name: str) -> Row:
    """A row on IoTKITs-LT."""
    return Row(f"IoTKITs-LT/mask_rcnn_lite0_FPN{name}.yaml")


def tables_of(iterations: int) -> Tables:
    """List all rows.

    Args:
        iterations: of a first stage.
    """
    lite0, dino = "deeplabv3plus_lite0", "linear_dinov2_S"
    second = ("SOLVER.MAX_ITER", f"{iterations // 4}", "SOLVER.WARMUP_ITERS", f"{iterations // 40}")
    # A class in every 20th image is repeated, as in sampling.py.
    repeated = (SAMPLER, "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.05")
    pasted = ("INPUT.COPY_PASTE.PROBABILITY", "0.5")
    return {
        "CCP samplers": {
            "uniform": ccp(lite0),
            "repeat factors": ccp(lite0, *repeated, variant="repeat_factors"),
            "class-balanced": ccp(
                lite0, SAMPLER, "ClassBalancedTrainingSampler", variant="class_balanced"
            ),
            "rare-class": ccp(f"{lite0}_rcs"),
            "copy-paste": ccp(lite0, *pasted, variant="copy_paste"),
            "rare-class, copy-paste": ccp(f"{lite0}_rcs_copy_paste"),
        },
        "IoTKITs-LT samplers": {
            "uniform": boards(""),
            "repeat factors": boards("_rfs"),
            "instance-aware repeat factors": boards("_irfs"),
            "instance-aware, copy-paste": boards("_irfs_copy_paste"),
        },
        "CCP today's models": {
            "Mask2Former, Lite0": ccp("mask2former_lite0"),
            "Mask2Former, Lite0, RR": ccp("mask2former_lite0_rr"),
            "Mask2Former, Lite0, DisAlign": ccp("mask2former_lite0_disalign", *second),
            "DINOv2-S, frozen": ccp(dino, *RANDOM),
            "DINOv2-S, frozen, RR": ccp(f"{dino}_rr", *RANDOM),
            "DINOv2-S, frozen, DisAlign": ccp(f"{dino}_disalign", *second),
            "DINOv2-S, low-rank adapters": ccp(f"{dino}_lora", *RANDOM),
            "CLIP-B, frozen": ccp(dino, *RANDOM, *CLIP, variant="clip_B"),
            "UPerNet, ConvNeXt-atto": ccp(
                "upernet_lite0", *RANDOM, *CONVNEXT, variant="convnext_atto"
            ),
        },
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=300, help="of a first stage")
    parser.add_argument(
        "--tables", nargs="+", choices=list(tables_of(0)), metavar="NAME", help="by default all"
    )
    add_table_arguments(parser, seeds=1, output="output/short_runs")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    iterations = arguments.iterations
    tables = tables_of(iterations)
    with ending_in_one_line():
        run_tables(
            "short_runs",
            {name: tables[name] for name in arguments.tables or tables},
            arguments,
            options=(
                *("SOLVER.MAX_ITER", f"{iterations}", "SOLVER.WARMUP_ITERS", f"{iterations // 10}"),
                *("DATALOADER.NUM_WORKERS", "0"),
            ),
        )


if __name__ == "__main__":
    main()
