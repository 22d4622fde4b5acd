# SPDX-License-Identifier: Apache-2.0
"""Picture the training images as a model gets them: augmented, with labels, boxes and masks.

    longtail browse --config-file CamVid/deeplabv3plus_lite0.yaml --output pictures
    longtail browse --config-file CONFIG --output pictures --num-images 20 INPUT.RANDOM_FLIP none

These are the first images of a training with the same config: in the order of its sampler, with the
augmentations of its SEED (0 where that is negative). Every image becomes
OUTPUT/<position>_<name of the image>.png; OUTPUT/contact_sheet.png shows all of them.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.utils.command_line import (
    add_config_arguments,
    check_output_folder,
    command_parser,
)
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    import numpy as np
    from detectron2.config import CfgNode

    from longtail.visualization.tasks import Task


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("browse", __doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the pictures")
    parser.add_argument(
        "--num-images", type=int, default=8, metavar="N", help="images (default: 8)"
    )
    add_config_arguments(parser, "a training")
    return parser


def browse(options: argparse.Namespace) -> None:
    """Write a picture of each of the first images of a training.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError, KeyError: bad input; the message says what to do.
    """
    from longtail.config import load_config
    from longtail.engine.training.loader import TrainingLoader
    from longtail.engine.training.trainer import Trainer
    from longtail.visualization.tasks import build_task
    from longtail.visualization.writing import write_pictures

    if options.num_images < 1:
        raise ValueError(f"--num-images must be 1 or more, got {options.num_images}")
    check_output_folder(options.output)
    # A worker gives the same images as this process, see TrainingLoader.
    cfg = load_config(
        options.config_file,
        [*options.opts, "DATALOADER.NUM_WORKERS", 0],
        imports=options.imports,
    )
    loader = Trainer.build_train_loader(cfg)
    if not isinstance(loader, TrainingLoader):
        raise ValueError(
            f"{options.config_file} does not train on images but on a {type(loader).__name__}: "
            "name the config without cached features"
        )
    loader.seed(max(cfg.SEED, 0))
    task = build_task(cfg.DATASETS.TRAIN[0])
    images = islice(chain.from_iterable(loader), options.num_images)
    write_pictures(options.output, _pictures(images, task, cfg))


def _pictures(
    images: Iterator[Mapping[str, Any]], task: "Task", cfg: "CfgNode"
) -> Iterator[tuple[str, "np.ndarray"]]:
    import numpy as np

    for place, mapped in enumerate(images):
        image = mapped["image"].numpy().transpose(1, 2, 0)
        if cfg.INPUT.FORMAT == "BGR":
            image = image[..., ::-1]
        name = f"{place:04d}_{Path(mapped['file_name']).stem}"
        yield name, task.picture(np.ascontiguousarray(image), _truth(mapped, task), {})


def _truth(mapped: Mapping[str, Any], task: "Task") -> Any:
    """What a model is trained to predict, as :meth:`.Task.truth` gives it of a record."""
    from longtail.visualization.predictions import objects_of_mapper
    from longtail.visualization.tasks import IMAGES, SEM_SEG

    if task.kind == SEM_SEG:
        return mapped["sem_seg"].numpy()
    return mapped["label"] if task.kind == IMAGES else objects_of_mapper(mapped["instances"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        browse(options)
