# SPDX-License-Identifier: Apache-2.0
"""The packaged configs as runs record theirs, and which keys tell two recipes apart."""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from longtail.analysis.evaluations import Evaluation
from longtail.config import flat_config, get_cfg, get_config_file, load_config
from longtail.config.tables import read_leaves

# Keys that may differ between runs of one recipe, and why. Not among them, since they change what
# is learned a little: SOLVER.AMP.* (another precision), SOLVER.ACCUMULATION_STEPS (batch
# normalisation sees parts of the batch), MODEL.SYNC_BN, DATALOADER.ASPECT_RATIO_GROUPING.
IGNORED = {
    "OUTPUT_DIR": "the place of the files",
    "SEED": "tells the runs of a recipe apart",
    "VERSION": "the form of the config",
    "GLOBAL.HACK": "read by nothing",
    "CUDNN_BENCHMARK": "speed",
    "MODEL.DEVICE": "the machine",
    "MODEL.COMPILE": "the same function, compiled",
    "MODEL.CHANNELS_LAST": "the same function, another order in memory",
    "SOLVER.FSDP.ENABLED": "the same function, in parts that several processes hold",
    "MODEL.TIMM.CHECKPOINTING": "the same function, computed twice to save memory",
    "DATALOADER.NUM_WORKERS": "the order of images and augmentations do not depend on it",
    # Where it takes effect, detectron2 scales batch, learning rate and iterations: those differ.
    "SOLVER.REFERENCE_WORLD_SIZE": "the number of processes that the other keys are for",
    "SOLVER.CHECKPOINT_PERIOD": "what is kept",
    "SOLVER.CHECKPOINT_MINUTES": "what is kept",
    "SOLVER.CHECKPOINT_KEEP": "what is kept",
    "SOLVER.BEST_CHECKPOINT_METRIC": "what is kept",
    "SOLVER.HANG_MINUTES": "when a run that hangs is ended",
    "VIS_PERIOD": "pictures in the log",
    "LOG.WRITERS": "where the log is written to",
    "LOG.PROJECT": "where the log is written to",
    "LOG.TENSORBOARD.IMAGES": "pictures in the log",
    "LOG.TENSORBOARD.HISTOGRAMS": "pictures in the log",
    "LOG.TENSORBOARD.HPARAMS": "a table in the log",
    # The evaluation says itself what it was on.
    "DATASETS.TEST": "further test sets change nothing on the first",
    "TEST.EVAL_PERIOD": "evaluations on the way",
    "TEST.EXPECTED_RESULTS": "a check of the results",
    "TEST.AUG.ENABLED": "multi-scale metrics have names of their own",
    "TEST.LVIS.MODES": "metrics of other modes have names of their own",
    "TEST.LVIS.KEEP_ALL_DETECTIONS": "files for others",
    "TEST.LVIS.WRITE_PRECISION": "a further file",
    "TEST.LVIS.DECISIONS": "further metrics, with names of their own",
    "TEST.SEM_SEG.WRITE_PREDICTIONS": "a further file",
}
WEIGHTS = "MODEL.WEIGHTS"

Differences = dict[str, tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class Recipe:
    """A packaged config.

    Attributes:
        config: its path below ``configs/``.
        values: of all keys, by full key; sequences are lists.
    """

    config: str
    values: dict[str, Any]

    @property
    def test_set(self) -> str:
        """The first of DATASETS.TEST, which the papers' metrics are on."""
        return self.values["DATASETS.TEST"][0]

    @property
    def output(self) -> PurePosixPath:
        """OUTPUT_DIR as it is packaged."""
        return PurePosixPath(self.values["OUTPUT_DIR"])


@functools.cache
def read_recipe(config: str) -> Recipe:
    """Load a packaged config.

    Args:
        config: its path below ``configs/``.

    Raises:
        FileNotFoundError: there is none.
    """
    return Recipe(config, flat_config(load_config(get_config_file(config))))


def unequal_keys(
    one: Mapping[str, Any], other: Mapping[str, Any], free: Collection[str]
) -> dict[str, tuple[Any, Any]]:
    """Compare two configs, the same way for everybody who asks whether runs are of one recipe.

    Args:
        one: values by full key; a key that is absent, since another version has recorded the
            config, has the default.
        other: likewise.
        free: keys that may differ.

    Returns:
        ``{key: (value of one, value of other)}`` by name; None of a key that is not known here.
    """
    one, other = ({**defaults(), **config} for config in (one, other))
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if key not in free and one.get(key) != other.get(key)
    }


def differences(evaluation: Evaluation, recipe: Recipe) -> Differences:
    """Compare the config of an evaluation with a recipe, all but :data:`IGNORED` and the weights.

    Args:
        evaluation: of any test set.
        recipe: what it may be a run of.

    Returns:
        ``{key: (value of the run, value of the recipe)}``.
    """
    unequal = unequal_keys(evaluation.config, recipe.values, {*IGNORED, WEIGHTS})
    return {
        key: values
        for key, values in unequal.items()
        # Of multi-scale testing.
        if evaluation.multi_scale or not key.startswith("TEST.AUG.")
    }


def first_stage(recipe: Recipe) -> Recipe | None:
    """The recipe whose weights another one starts from; None if it starts from none of ours."""
    folder = PurePosixPath(recipe.values[WEIGHTS]).parent
    if folder.parts[:1] != recipe.output.parts[:1]:
        return None
    data = recipe.config.partition("/")[0]
    configs = [config for config in read_leaves() if config.startswith(f"{data}/")]
    # Named like the folder, nearly always: that one first.
    for config in sorted(configs, key=lambda config: PurePosixPath(config).stem != folder.name):
        first = read_recipe(config)
        if first.output == folder:
            return first
    return None


@functools.cache
def defaults() -> dict[str, Any]:
    """The default of every key, by full key."""
    return flat_config(get_cfg())
