# SPDX-License-Identifier: Apache-2.0
"""Say what a config is: its recipe, its keys, and parameters, operations and memory of its model.

    longtail info ADE20K/upernet_swin_T_160k_rr.yaml
    longtail info mine.yaml MODEL.SEM_SEG_HEAD.NUM_CLASSES 19

Operations are multiply-adds of one image, as fvcore counts them, of the model that is left for
inference. What a training keeps for the backward pass is taken from two random images, in float32;
batches, mixed precision and the workspace of convolutions are not in it. Without the training set,
which many losses read, that part is left out.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longtail.utils.command_line import add_import_argument, command_parser
from longtail.utils.errors import ending_in_one_line, first_line

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from longtail.engine.model_info import Training


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("info", __doc__)
    parser.add_argument("config", metavar="CONFIG", help="a file, or the name of a packaged one")
    add_import_argument(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="replaced config values")
    return parser


def recipe(name: str) -> list[str]:
    """What the table of configs says of a packaged config; nothing of another."""
    from longtail.config.listing import config_entries

    found = [entry for entry in config_entries() if name.endswith(entry.config)]
    lines = []
    for entry in found[:1]:
        lines.append(entry.title)
        lines += [f"published: {entry.published}"] if entry.published else []
        lines += [f"measured here: {entry.measured}"] if entry.measured else []
    return lines


def changed_keys(cfg: "CfgNode") -> dict[str, Any]:
    """The keys that differ from the defaults, with their values."""
    from longtail.config import flat_config, get_cfg

    defaults = flat_config(get_cfg())
    return {key: value for key, value in flat_config(cfg).items() if defaults[key] != value}


def model_lines(cfg: "CfgNode") -> list[str]:
    """The model that is left for inference: a table by modules."""
    from tabulate import tabulate

    from longtail.engine.model_info import measure_deployed

    found = measure_deployed(cfg)
    height, width = found.size
    rows = [
        [name, count / 1e6, found.flops.get(name, 0) / 1e9]
        for name, count in found.parameters.items()
    ]
    rows.append(["all", *(sum(row[column] for row in rows) for column in (1, 2))])
    header = ["module", "parameters (M)", f"multiply-adds at {height}x{width} (G)"]
    return ["for inference:", tabulate(rows, header, floatfmt=".2f")]


def training_lines(training: "Training") -> list[str]:
    """The memory of a step."""
    height, width = training.size
    return [
        "in training:",
        f"{training.parameters / 1e6:.2f} M parameters, {training.trained / 1e6:.2f} M of them "
        "are trained",
        f"{training.weights / 1e6:,.0f} MB of weights, gradients and the optimizer's state",
        f"{training.activations / 1e6:,.0f} MB kept for the backward pass of an image of "
        f"{height}x{width}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        from longtail.config import load_config

        cfg = load_config(options.config, options.opts, imports=options.imports)
        for line in recipe(options.config):
            print(line)
        print("\nkeys that differ from the defaults:")
        for key, value in changed_keys(cfg).items():
            print(f"  {key}: {value!r}")
        print("\n" + "\n".join(model_lines(cfg)), flush=True)
        print("\n" + "\n".join(_training(cfg)))


def _training(cfg: "CfgNode") -> list[str]:
    from longtail.engine.model_info import measure_training

    try:
        return training_lines(measure_training(cfg))
    except FileNotFoundError as error:
        return [f"in training: not known, {first_line(error)}"]
