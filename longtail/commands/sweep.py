# SPDX-License-Identifier: Apache-2.0
r"""Run a config with several values of some keys, and table the metrics.

Every value is trained with every seed; what is finished is not run again, and what was interrupted
continues. A first stage that the config starts from is trained once a seed, for all values:

    longtail sweep CamVid/deeplabv3plus_lite0.yaml SOLVER.BASE_LR=0.001,0.003,0.01 --seeds 3
    longtail sweep digits-LT/linear_lws.yaml SOLVER.BASE_LR=0.1,0.2 SOLVER.MAX_ITER=150,300
    longtail sweep mine.yaml MODEL.CLASSIFIER.LOSS=mine,focal --import my_losses
    longtail sweep CONFIG KEY=V1,V2,... --num-gpus 8 --dry-run           # print the commands
    longtail sweep CONFIG KEY=V1,V2,... --num-gpus 8 --launcher slurm    # write array jobs

The strength of a post hoc method needs no training: with --weights all values share one pass over
the data. Choose it on validation images, never on those that are reported:

    longtail sweep digits-LT/linear.yaml MODEL.POST_HOC.TAU=0,0.5,1,1.5 \
        --weights output/digits-LT/linear/model_final.pth --dataset digits_lt_val
    longtail sweep CONFIG MODEL.POST_HOC.GAMMA=0,0.3,0.6 --weights FILE --dataset NAME    # NorCal

The table has mean and sample standard deviation over the seeds, in percent.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.analysis.choices import FORMATS
from longtail.jobs.arguments import add_run_arguments
from longtail.utils.command_line import command_parser
from longtail.utils.errors import ending_in_one_line
from longtail.utils.text import as_file_name

if TYPE_CHECKING:
    from longtail.analysis.runs import Run
    from longtail.jobs.plan import Row

# Key of a strength -> the method that it is of.
POST_HOC = {
    "MODEL.POST_HOC.TAU": "tau_norm",
    "MODEL.POST_HOC.LAMBDA": "logit_adjustment",
    "MODEL.POST_HOC.GAMMA": "norcal",
}
METHOD = "MODEL.POST_HOC.METHOD"


def build_parser() -> argparse.ArgumentParser:
    """Make the command line."""
    parser = command_parser("sweep", __doc__)
    parser.add_argument("config", metavar="CONFIG", help="a file, or the name of a packaged config")
    parser.add_argument(
        "values",
        nargs="+",
        metavar="KEY=V1,V2,...",
        help="a key of the config and its values; of several keys every combination is run",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="evaluate on this registered data set, not on the config's",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="trained weights, for MODEL.POST_HOC.TAU, LAMBDA or GAMMA in one pass over --dataset",
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="of the table")
    add_run_arguments(parser)
    return parser


def parse_values(texts: Sequence[str]) -> dict[str, list[str]]:
    """Read ``KEY=V1,V2``; commas inside of brackets and quotes belong to the value.

    Args:
        texts: of the command line.

    Returns:
        The values by key.

    Raises:
        ValueError: a text is not of this form, or a key or a value is there twice.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, rest = text.partition("=")
        values = [value.strip() for value in _split(rest)]
        if not equals or not key or not all(values):
            raise ValueError(f"expected KEY=V1,V2,... such as SOLVER.BASE_LR=0.1,0.2, got {text!r}")
        if key in found or len(set(values)) < len(values):
            raise ValueError(f"{text!r}: every key and every value once")
        found[key] = values
    return found


def _split(text: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for character in text:
        if character == "," and not depth and not quote:
            parts.append("")
            continue
        if quote or character in "'\"":
            quote = "" if character == quote else quote or character
        depth += (character in "([{") - (character in ")]}")
        parts[-1] += character
    return parts


def rows_of(
    config: str, values: dict[str, list[str]], dataset: str | None = None
) -> dict[tuple[str, ...], "Row"]:
    """The row of every combination of values.

    Args:
        config: of all rows.
        values: by key.
        dataset: that is evaluated on; by default the config's.
    """
    from longtail.jobs.plan import Row

    test = ("DATASETS.TEST", f"('{dataset}',)") if dataset else ()
    folder = f"{as_file_name(dataset)}/" if dataset else ""
    names = short_names(values)
    rows = {}
    for combination in itertools.product(*values.values()):
        options = tuple(item for pair in zip(values, combination, strict=True) for item in pair)
        labels = (f"{name}={value}" for name, value in zip(names, combination, strict=True))
        rows[combination] = Row(config, (*options, *test), folder + as_file_name(",".join(labels)))
    return rows


def short_names(keys: Sequence[str]) -> list[str]:
    """The last parts of keys, or all of them where two would be alike."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return last if len(set(last)) == len(last) else list(keys)


def sweep(options: argparse.Namespace) -> None:
    """Run what is missing and print the table.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError: bad values, a bad config, or a folder holds another run.
        SystemExit: a run has failed.
    """
    from longtail.analysis.spread_table import spread_table
    from longtail.jobs.run import run_rows

    values = parse_values(options.values)
    _check_post_hoc(options, values)
    rows = rows_of(options.config, values, options.dataset)
    if options.weights:
        found = _in_one_pass(options, rows)
    else:
        _, runs = run_rows(rows.values(), options)
        found = {combination: runs[row] for combination, row in rows.items()} if runs else {}
    if found:
        metrics = {group: [run.metrics() for run in runs] for group, runs in found.items()}
        print(f"\n{_title(options, found)}\n" if options.format != "csv" else "", end="")
        print(spread_table(metrics, short_names(values), options.format))


def _title(options: argparse.Namespace, found: dict[tuple[str, ...], list["Run"]]) -> str:
    runs = next(iter(found.values()))
    test_set = runs[0].test_sets[0]
    several = f", {len(runs)} seeds, mean ± standard deviation" if len(runs) > 1 else ""
    return f"{options.config} on {test_set}{several}"


def _check_post_hoc(options: argparse.Namespace, values: dict[str, list[str]]) -> None:
    """Refuse strengths of a method that is not applied, and weights for what has to be trained."""
    from longtail.config import load_config

    strengths = [key for key in values if key in POST_HOC]
    method = load_config(options.config, imports=options.imports).MODEL.POST_HOC.METHOD
    if options.weights:
        if len(values) > 1 or not strengths:
            raise ValueError(
                f"--weights is for the values of {' or '.join(POST_HOC)} alone, got "
                f"{', '.join(values)}: leave it out to train"
            )
        if not options.dataset:
            raise ValueError("--weights needs --dataset: name the validation set to choose by")
        if method not in ("", POST_HOC[strengths[0]]):
            raise ValueError(f"{strengths[0]} has no part in {method} of {options.config}")
    for key in strengths if not options.weights else ():
        if method != POST_HOC[key] and METHOD not in values:
            raise ValueError(
                f"{key} is of {METHOD} {POST_HOC[key]}, but {options.config} has {method!r}: add "
                f"{METHOD}={POST_HOC[key]} and MODEL.WEIGHTS=FILE, or --weights and --dataset"
            )


def _in_one_pass(
    options: argparse.Namespace, rows: dict[tuple[str, ...], "Row"]
) -> dict[tuple[str, ...], list["Run"]]:
    """Evaluate every strength on the same features; the reports are those of as many runs."""
    from longtail.analysis.runs import read_run
    from longtail.config import load_config
    from longtail.engine.deployment.post_hoc_sweep import evaluate_strengths
    from longtail.engine.run import load_weights
    from longtail.jobs.plan import config_name

    cfgs = []
    for row in rows.values():
        folder = options.output / config_name(row.config) / row.variant
        common = [METHOD, POST_HOC[row.options[0]], "MODEL.WEIGHTS", options.weights]
        keys = [*row.options, *common, "OUTPUT_DIR", str(folder)]
        cfgs.append(load_config(row.config, keys, imports=options.imports))
        cfgs[-1].freeze()
    if options.dry_run:
        print("\n".join(f"# in one pass: {cfg.OUTPUT_DIR}" for cfg in cfgs))
        return {}
    evaluate_strengths(cfgs, load_weights(cfgs[0]))
    return {group: [read_run(Path(cfg.OUTPUT_DIR))] for group, cfg in zip(rows, cfgs, strict=True)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: of the command line, by default those of the process.
    """
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        sweep(options)
