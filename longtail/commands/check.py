# SPDX-License-Identifier: Apache-2.0
"""Check the header of every image and label map: existence, mode, size, orientation.

    longtail check --config-file ADE20K/deeplabv3plus_R_50c_160k.yaml
    longtail check --data my_data.yaml
    longtail check --dataset camvid_sem_seg_train camvid_sem_seg_val --num-workers 8
    torchrun --nproc-per-node 2 -m longtail check ... (all processes share the images)

Without --dataset, the sets of DATASETS.TRAIN and DATASETS.TEST, or all that --data declares. The
exit code is 1 if there is an error. No pixel is decoded: what is damaged behind the header,
training and prepare notice.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from longtail.commands._processes import run_once
from longtail.utils.command_line import (
    add_data_argument,
    add_import_argument,
    command_parser,
)
from longtail.utils.cores import cores_of_process
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    from longtail.data.datasets.checking import HeaderReport


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("check", __doc__)
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="config whose data sets are checked: a file, or the name of a packaged one",
    )
    parser.add_argument("--dataset", nargs="+", metavar="NAME", help="registered data sets")
    add_data_argument(parser)
    add_import_argument(parser)
    parser.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="processes (default: all cores, or this process's part of them)",
    )
    parser.add_argument(
        "--shown", type=int, default=5, metavar="N", help="findings of a kind shown (default: 5)"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="replaced config values")
    return parser


def check(options: argparse.Namespace) -> "HeaderReport":
    """Check the data sets, and print what was found.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError: no data set is named, or one that is not registered.
    """
    from longtail.data.datasets.checking import check_headers
    from longtail.data.datasets.declared import register_data_files
    from longtail.data.formats.header_findings import ERRORS, WARNINGS

    declared = register_data_files(options.data)
    names = options.dataset or (not options.config_file and declared) or _data_sets(options)
    workers = cores_of_process() if options.num_workers is None else options.num_workers
    report = check_headers(names, workers, options.shown)
    for kinds, what in ((ERRORS, "error"), (WARNINGS, "warning")):
        for kind, meaning in kinds.items():
            number = report.counts[kind]
            for message in report.messages[kind]:
                print(f"{what}: {message}")
            if number:
                print(f"{number} {what}{'' if number == 1 else 's'}: {kind} ({meaning})")
    print(
        f"{', '.join(names)}: {report.images} images, {report.label_maps} label maps, "
        f"{report.errors} errors, {report.warnings} warnings"
    )
    return report


def _data_sets(options: argparse.Namespace) -> list[str]:
    if not options.config_file:
        raise ValueError("name data sets with --dataset or --data, or a config with --config-file")
    from longtail.config import load_config

    cfg = load_config(options.config_file, options.opts, imports=options.imports)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not names:
        raise ValueError(f"{options.config_file} names no data set in DATASETS.TRAIN and TEST")
    return list(dict.fromkeys(names))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit code 1 after errors."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        report = run_once(check, options)
    if report.errors:
        raise SystemExit(1)
