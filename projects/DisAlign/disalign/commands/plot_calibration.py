# SPDX-License-Identifier: Apache-2.0
r"""Plot what DisAlign's second stage has learned: alpha, beta and sigma(x), by class frequency.

    longtail plot-calibration --config-file STAGE2.yaml --weights STAGE2/model_final.pth \
        --output pictures

One row of panels for each stage of the box head: alpha and beta of every class against its
instances in the training set, and the distribution of sigma(x) over the RoIs of some training
batches, by the frequency group of the RoI's class (the paper's supplement, Figure 6). OUTPUT then
has calibration.png and, with all values, calibration.json.

Shape alphabet:
    K: foreground classes
    R: RoIs of one frequency group, or of the background
"""

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import nn

from longtail.config import load_config
from longtail.data.statistics.class_stats import ClassStats, get_class_stats
from longtail.data.statistics.groups import frequency_groups
from longtail.engine import Trainer
from longtail.engine.checkpoint import load_tensors
from longtail.engine.training.stages import load_second_stage
from longtail.utils.command_line import add_config_arguments, command_parser
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import atomic_write, write_json

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = {
    "rare": "tab:red",
    "common": "tab:orange",
    "frequent": "tab:blue",
    "background": "tab:gray",
}
BACKGROUND = "background"
# Percent.
QUANTILES = (5, 25, 50, 75, 95)
# Of one stage of the box head: (R,) sigma of the RoIs of a group.
SigmaByGroup = dict[str, np.ndarray]


def plot_calibration(options: argparse.Namespace) -> None:
    """Write the picture and its values, and print a table.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError, KeyError: bad input; the message says what to do.
    """
    if options.batches < 1:
        raise ValueError(f"--batches must be 1 or more, got {options.batches}")
    if os.path.exists(options.output) and not os.path.isdir(options.output):
        raise ValueError(f"--output {options.output} is a file: name a folder")
    cfg = load_config(options.config_file, options.opts)
    if cfg.MODEL.META_ARCHITECTURE != "DisAlignRCNN":
        raise ValueError(
            f"{options.config_file} is not a second stage of a detector: "
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, expected DisAlignRCNN"
        )
    stats = get_class_stats(cfg.DATASETS.TRAIN)
    groups = frequency_groups(stats.image_count)
    model = load_model(cfg, options.weights, stats.class_names)
    sigma = sigma_by_group(model, cfg, options.batches, groups)
    stages = [
        {"classes": class_values(predictor.calibration, stats, groups), "sigma": of_stage}
        for predictor, of_stage in zip(model.roi_heads.predictors, sigma, strict=True)
    ]
    print(table(stages))
    figure = draw(stages)
    png, values = (Path(options.output) / f"calibration.{end}" for end in ("png", "json"))
    with atomic_write(png, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    summaries = [{**s, "sigma": {g: summary(v) for g, v in s["sigma"].items()}} for s in stages]
    write_json(
        values,
        {
            "config": options.config_file,
            "weights": options.weights,
            "batches": options.batches,
            "stages": summaries,
        },
    )
    print(f"written: {png}, {values}")


def load_model(cfg: CfgNode, weights: str, class_names: Sequence[str] = ()) -> nn.Module:
    """A trained second stage, every module in its mode for training.

    Args:
        cfg: its config.
        weights: its checkpoint.
        class_names: of the training set, to be those of the checkpoint; empty if not known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights do not have a calibration, or are not those of this config.
    """
    model = Trainer.build_model(cfg)
    load_second_stage(model, weights, class_names)
    saved = load_tensors(weights)
    # A first stage's checkpoint is also one to start from: nothing learned, and no complaint.
    if not any(".calibration." in name for name in saved.get("model", saved)):
        raise ValueError(
            f"the weights {weights} have no calibration: give a checkpoint that the second stage "
            f"wrote, such as {os.path.join(cfg.OUTPUT_DIR, 'model_final.pth')}"
        )
    return model


@torch.no_grad()
def sigma_by_group(
    model: nn.Module, cfg: CfgNode, batches: int, groups: dict[str, list[int]]
) -> list[SigmaByGroup]:
    """sigma(x) of the RoIs that training batches give, for each stage of the box head.

    Args:
        model: what :func:`load_model` gave.
        cfg: its config.
        batches: how many batches.
        groups: class indices of every frequency group.

    Returns:
        For each stage (R,) values in [0, 1] by group; a group without RoIs is left out.
    """
    predictors = model.roi_heads.predictors
    sigma = [[] for _ in predictors]
    classes = [[] for _ in predictors]
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    # The heads count foreground and background into the storage.
    with EventStorage():
        for batch in itertools.islice(Trainer.build_train_loader(cfg), batches):
            for stage, (features, of_rois) in enumerate(model.sample_rois(batch)):
                confidence = predictors[stage].calibration.confidence(features)
                sigma[stage].append(confidence.flatten().float().cpu().numpy())
                classes[stage].append(of_rois.cpu().numpy())
    num_classes = predictors[0].num_classes
    group_of_class = np.full(num_classes + 1, BACKGROUND, dtype=object)
    for name, indices in groups.items():
        group_of_class[indices] = name
    found = []
    for values, labels in zip(sigma, classes, strict=True):
        values, names = np.concatenate(values), group_of_class[np.concatenate(labels)]
        by_group = {name: values[names == name] for name in (*groups, BACKGROUND)}
        found.append({name: of_group for name, of_group in by_group.items() if len(of_group)})
    return found


def class_values(
    calibration: nn.Module, stats: ClassStats, groups: dict[str, list[int]]
) -> list[dict[str, Any]]:
    """Name, group, instances in training, alpha and beta of each of the K classes."""
    group_of_class = {index: name for name, indices in groups.items() for index in indices}
    alpha, beta = calibration.alpha.tolist(), calibration.beta.tolist()
    return [
        {
            "name": name,
            "group": group_of_class[index],
            "instance_count": int(stats.instance_count[index]),
            "alpha": alpha[index],
            "beta": beta[index],
        }
        for index, name in enumerate(stats.class_names)
    ]


def summary(sigma: np.ndarray) -> dict[str, Any]:
    """Number of RoIs and quantiles of their sigma, by percent."""
    quantiles = np.percentile(sigma, QUANTILES).tolist()
    return {
        "rois": len(sigma),
        "quantiles": {str(q): v for q, v in zip(QUANTILES, quantiles, strict=True)},
    }


def table(stages: list[dict[str, Any]]) -> str:
    """A line for every stage and group: means of alpha and beta, quantiles of sigma."""
    rows = []
    for number, stage in enumerate(stages):
        for group in COLORS:
            members = [row for row in stage["classes"] if row["group"] == group]
            values = stage["sigma"].get(group, ())
            if not members and not len(values):
                continue
            means = [np.mean([row[key] for row in members]) for key in ("alpha", "beta") if members]
            quantiles = np.percentile(values, QUANTILES) if len(values) else [None] * len(QUANTILES)
            means = means or [None, None]
            rows.append([number, group, len(members) or None, *means, len(values), *quantiles])
    headers = ["stage", "group", "classes", "alpha", "beta", "RoIs"]
    headers += [f"sigma {q} %" for q in QUANTILES]
    return tabulate(rows, headers=headers, floatfmt=".3f")


def draw(stages: list[dict[str, Any]]) -> plt.Figure:
    """One row of panels for each stage: alpha, beta, sigma."""
    figure, axes = plt.subplots(
        len(stages), 3, figsize=(13, 3.8 * len(stages)), squeeze=False, layout="constrained"
    )
    for number, (stage, (left, middle, right)) in enumerate(zip(stages, axes, strict=True)):
        title = f" (stage {number})" if len(stages) > 1 else ""
        for ax, key, start in ((left, "alpha", 1), (middle, "beta", 0)):
            draw_classes(ax, stage["classes"], key, start)
            ax.set_title(f"learned {key}{title}")
        left.legend()
        draw_sigma(right, stage["sigma"])
        right.set_title(f"sigma(x) of RoIs{title}")
    return figure


def draw_classes(ax: plt.Axes, classes: list[dict[str, Any]], key: str, start: float) -> None:
    """One value of every class against its frequency; ``start`` is where it was before training."""
    for group, color in COLORS.items():
        members = [row for row in classes if row["group"] == group]
        if members:
            # A class that does not occur was counted as one instance.
            counts = [max(row["instance_count"], 1) for row in members]
            values = [row[key] for row in members]
            ax.scatter(counts, values, s=14, alpha=0.7, color=color, linewidths=0, label=group)
    ax.axhline(start, color="black", linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set_xlabel("instances in training")
    ax.set_ylabel(key)


def draw_sigma(ax: plt.Axes, sigma: SigmaByGroup) -> None:
    """Box plots: median, quartiles, and whiskers from 5 % to 95 %."""
    boxes = ax.boxplot(
        list(sigma.values()), whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6
    )
    for box, group in zip(boxes["boxes"], sigma, strict=True):
        box.set(facecolor=COLORS[group], alpha=0.6)
    plt.setp(boxes["medians"], color="black")
    ax.set_xticks(
        range(1, len(sigma) + 1), [f"{name}\n{len(v):,} RoIs" for name, v in sigma.items()]
    )
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("sigma")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("plot-calibration", __doc__.partition("\nShape alphabet")[0])
    add_config_arguments(parser, "a second stage")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its checkpoint")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the picture")
    parser.add_argument(
        "--batches",
        type=int,
        default=20,
        metavar="N",
        help="training batches that sigma is taken from (default: 20)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        plot_calibration(options)
