"""Make configs/README.md, the index of all configs, from the comments that they begin with.

    python tools/config_index.py
    python tools/config_index.py --check    # only say whether the index is up to date

Such a comment names the papers' rows, each with its figures, then what was measured here, if
anything, and the command:

    # Region Rebalance, Table 3: DeepLabv3+, ResNet-50c, baseline.
    # Expected mIoU: 43.95 (s.s.), 44.93 (m.s., with TEST.AUG.ENABLED True).
    # Measured mIoU: 43.9 ± 0.2 (benchmarks/results/NAME.json).
    #   python train_net.py --config-file configs/FOLDER/NAME.yaml --num-gpus 8

Figures of detection are "AP: box 20.8, mask 21.2", those of image classification "accuracy: 41.6,
many 64.0, medium 33.8, few 5.8" or "accuracy: 41.6"; also valid are "Expected mIoU: not published."
and "Measured mIoU: not yet.". A config without a row says "In neither paper" and expects nothing.
The command of a config that only evaluates has "--eval-only".
"""

import argparse
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longtail.utils.io import atomic_write

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

INTRODUCTION = """\
<!-- Made by tools/config_index.py from the comments at the head of the configs. -->

# Configs

    python train_net.py --num-gpus 8 --config-file configs/ADE20K/deeplabv3plus_R_50c_160k.yaml

Every config names the row that it stands for and its command. `models/` holds architectures with
their recipes, `Base-*.yaml` what configs share; a semantic row is a model and its data set's base:

    _BASE_: [../models/upernet_R_50c.yaml, ../models/backbone_R_101c.yaml, Base-ADE20K.yaml]

| ending | meaning |
|---|---|
| `_160k` | iterations |
| `_rr` | Region Rebalance on the config without it |
| `_cosine` | cosine classifier, `*` in DisAlign's tables |
| `_rfs` | repeat factor sampling |
| `_coco` | weights from COCO instead of ImageNet |
| `_90e`, `_200e` | epochs |
| `_disalign` | DisAlign's second stage, from the weights that the config without it has written |
| `_crt`, `_lws` | other second stages: the classifier retrained, or scaled, on balanced samples |
| `_bound` | the classifier retrained on balanced data: DisAlign's empirical bound |
| `_ncm`, `_tau_norm`, `_logit_adjustment` | post hoc, on the same weights: evaluation only |
| `_class_balanced`, `_square_root` | sampler of the first stage |

The second stage is a second command:

    python train_net.py --num-gpus 8 --config-file configs/LVISv0.5/mask_rcnn_R_50_FPN.yaml
    python train_net.py --num-gpus 8 --config-file configs/LVISv0.5/mask_rcnn_R_50_FPN_disalign.yaml

Semantic segmentation: figures are mIoU in percent, single-scale / multi-scale; for the latter set
`TEST.AUG.ENABLED True`. The rows of Tables 1, 5 and 6 that `ADE20K/ablations` lacks are DeepLabv3+
with ResNet-50c in `ADE20K`, baseline and `_rr`.

LVIS: figures are AP in percent, box / mask. Any of these configs can be trained with
`DATALOADER.SAMPLER_TRAIN ClassBalancedTrainingSampler`. `R_50` configs of `LVIS-Synthetic` and
`LVIS-CamVid` are for a GPU, `lite0` for a CPU.

Image classification: figures are class-balanced top-1 accuracy in percent, average / many / medium
/ few classes. `digits-LT` and `synthetic-LT` are for a CPU; `linear` and `cosine` are their
baselines, the other configs are named by the loss, the sampler or what comes after the baseline.

"Measured here" is on the machine that the named file describes, with the standard deviation over
seeds where there were several.
"""

ROW = re.compile(
    r"((?:Region Rebalance, (?:Table|Figure) \d+|DisAlign, (?:Table|Figure)s? \d+[^:]*"
    r"|In none of DisAlign's tables): .+)\."
)
ROW_STARTS = ("Region Rebalance, ", "DisAlign, ", "In none of ")
NUMBER = r"(\d+\.\d+(?: ± \d+\.\d+)?)"
FIGURES = (
    rf"(?:mIoU: {NUMBER}(?: \(s\.s\.\))?(?:, {NUMBER} \(m\.s\., with TEST\.AUG\.ENABLED True\))?"
    rf"|AP: box {NUMBER}, mask {NUMBER}"
    rf"|accuracy: {NUMBER}(?:, many {NUMBER}, medium {NUMBER}, few {NUMBER})?)"
)
# What follows the full stop is for the reader of the config.
EXPECTED = re.compile(rf"Expected (?:{FIGURES}|(?:mIoU|AP|accuracy): (not published))\.(?: .+)?")
MEASURED = re.compile(rf"Measured (?:{FIGURES} (\([^()]+\))|(?:mIoU|AP|accuracy): not yet)\.")


@dataclass(frozen=True)
class Header:
    """What the comment at the head of a config says.

    rows: the papers' rows that it stands for; none if it is in neither paper.
    published: a figure for each row: "s.s. / m.s.", "s.s.", "box / mask",
        "average / many / medium / few", "average" or "not published".
    measured: figures of the same form and in parentheses what they were measured with, a file of
        this repository or a command; "" where nothing was measured.
    """

    rows: tuple[str, ...]
    published: tuple[str, ...]
    measured: str


def config_files(folder: Path) -> list[Path]:
    """The configs that can be trained, in subfolders of ``folder``: neither bases nor models."""
    paths = [path for path in folder.glob("*/**/*.yaml") if not path.name.startswith("Base-")]
    paths = [path for path in paths if path.relative_to(folder).parts[0] != "models"]
    return sorted(paths, key=lambda path: (path.parent, path.stem))


def read_header(path: Path, folder: Path) -> Header:
    """What a config stands for, and its figures.

    Args:
        path: the config, somewhere in ``folder``.
        folder: the folder ``configs``.

    Raises:
        ValueError: the comment has not the form that this module's documentation describes.
    """
    name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
    try:
        return _parse(comment_lines(path), name)
    except ValueError as error:
        raise ValueError(f"{name}: the comment at its head {error}") from None


def comment_lines(path: Path) -> list[str]:
    """The lines of the comment that a config begins with, without their ``#``."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return [line.removeprefix("#").strip() for line in comment]


def _parse(lines: list[str], name: str) -> Header:
    rows, published, measured = [], [], ""
    for line in lines:
        if line.startswith(ROW_STARTS):
            rows.append(_match(ROW, line)[1])
        elif line.startswith("Expected"):
            published.append(_figures(_match(EXPECTED, line)))
        elif line.startswith("Measured"):
            measured = _figures(_match(MEASURED, line))
        else:
            continue
        if not len(rows) - 1 <= len(published) <= len(rows):
            raise ValueError(f"has a row without figures, or figures without a row: {line!r}")
    if len(published) != len(rows):
        raise ValueError(f"has no line 'Expected ...' after its row {rows[-1]!r}")
    if not rows and "In neither paper" not in " ".join(lines):
        raise ValueError("names no row ('Region Rebalance, Table 3: ...'), nor 'In neither paper'")
    command = f"python train_net.py --config-file {name}"
    without_options = [re.sub(r"( --eval-only)?( --num-gpus 8)?$", "", line) for line in lines]
    if command not in without_options:
        raise ValueError(f"lacks the command {command!r}")
    return Header(tuple(rows), tuple(published), measured)


def _match(pattern: re.Pattern, line: str) -> re.Match:
    match = pattern.fullmatch(line)
    if match is None:
        raise ValueError(f"has a line of unknown form (see tools/config_index.py): {line!r}")
    return match


def _figures(match: re.Match) -> str:
    """Numbers with a slash between them, then what they were measured with."""
    found = [group for group in match.groups() if group]
    source = found.pop() if found and found[-1].startswith("(") else ""
    return f"{' / '.join(found)} {source}".strip()


def index(folder: Path) -> str:
    """The text of README.md for the configs in ``folder``.

    Raises:
        ValueError: a config whose comment cannot be read, or no configs.
    """
    parts = [INTRODUCTION]
    for parent, paths in itertools.groupby(config_files(folder), key=lambda path: path.parent):
        parts.append(f"\n## {parent.relative_to(folder).as_posix()}\n\n")
        parts.append("| config | row | published | measured here |\n|---|---|---|---|\n")
        parts.extend(_table_row(path, folder) for path in paths)
    if len(parts) == 1:
        raise ValueError(f"there are no configs in the subfolders of {folder}")
    return "".join(parts)


def _table_row(path: Path, folder: Path) -> str:
    header = read_header(path, folder)
    link = f"[`{path.stem}`]({path.relative_to(folder).as_posix()})"
    rows = "; ".join(header.rows).replace("*", r"\*") or "in neither paper"
    return f"| {link} | {rows} | {'; '.join(header.published)} | {header.measured} |\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    parser.add_argument(
        "--configs", type=Path, default=CONFIGS, metavar="DIR", help="the folder configs"
    )
    options = parser.parse_args(arguments)
    readme = options.configs / "README.md"
    try:
        text = index(options.configs)
        if not options.check:
            with atomic_write(readme) as file:
                file.write(text)
        elif not readme.is_file() or readme.read_text(encoding="utf-8") != text:
            raise ValueError(f"{readme} is out of date: run python tools/config_index.py")
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
