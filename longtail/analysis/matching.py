# SPDX-License-Identifier: Apache-2.0
"""The packaged config that a run is of, found by comparing configs; folders may have any name.

A run is one of a packaged config if all keys are equal but those of
:data:`~longtail.analysis.recipes.IGNORED`. MODEL.WEIGHTS are compared by what they are, see
:func:`same_start`.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from longtail.analysis.evaluations import Evaluation
from longtail.analysis.recipes import (
    WEIGHTS,
    Differences,
    Recipe,
    differences,
    first_stage,
    read_recipe,
)
from longtail.analysis.runs import Run

# Differing keys, folders and configs that a remark shows.
SHOWN = 4


def start_of(run: Run, test_set: str) -> str | None:
    """Find the weights that the training of a run started from.

    Args:
        run: any.
        test_set: what its evaluations are on.

    Returns:
        MODEL.WEIGHTS; of a post hoc method those that it changes. None if it is not known: what
        was evaluated apart from its training names the trained weights instead.
    """
    for evaluation in _on(run, test_set):
        is_post_hoc = evaluation.config.get("MODEL.POST_HOC.METHOD", "")
        if evaluation.provenance["iteration"] is not None or is_post_hoc:
            return evaluation.config.get(WEIGHTS, "")
    return None


def same_start(start: str | None, recipe: Recipe, runs: Mapping[Path, Run]) -> bool:
    """Tell whether a run started from the weights that its recipe names.

    - Pretrained weights: a file of the same name, in whatever folder.
    - Weights of a first stage: those of a run, among ``runs``, of the first stage's recipe. If the
      run is not among them, a folder in the path is named like that config, or its OUTPUT_DIR.
    - Nobody knows: yes.

    Args:
        start: of :func:`start_of`.
        recipe: what the run may be one of.
        runs: all runs, by their resolved folders.
    """
    if start is None:
        return True
    first = first_stage(recipe)
    if first is None:
        return PurePosixPath(start).name == PurePosixPath(recipe.values[WEIGHTS]).name
    base = runs.get(Path(start).parent.resolve())
    if base is None:
        names = {first.output.name, PurePosixPath(first.config).stem}
        return bool(names & {*PurePosixPath(start).parts})
    return first.test_set in base.test_sets and not run_differences(base, first, runs)


def run_differences(run: Run, recipe: Recipe, runs: Mapping[Path, Run]) -> Differences:
    """Compare the evaluations of a run on a recipe's test set, and its start, with the recipe.

    Args:
        run: with an evaluation on that test set.
        recipe: what it may be a run of.
        runs: all runs, by their resolved folders.
    """
    found: Differences = {}
    for evaluation in _on(run, recipe.test_set):
        found |= differences(evaluation, recipe)
    start = start_of(run, recipe.test_set)
    if not same_start(start, recipe, runs):
        found[WEIGHTS] = (start, recipe.values[WEIGHTS])
    return found


@dataclass(frozen=True, eq=False)
class Matching:
    """The runs of some configs.

    Attributes:
        runs: those that count, by config, in the order of their seeds; one a seed.
        remarks: sentences: on runs that count for nothing, and why, and on test sets that are not
            the same in all runs.
    """

    runs: dict[str, list[Run]]
    remarks: list[str]


def match_runs(runs: Sequence[Run], configs: Sequence[str], others: Sequence[str] = ()) -> Matching:
    """Find the runs of some packaged configs.

    Runs that are not finished, of other recipes, or of other data do not count. Of two with one
    seed the newer evaluation counts: the same training twice is not two samples.

    Args:
        runs: all that there are.
        configs: paths below ``configs/``.
        others: further ones, whose runs are no mistake but of no interest.
    """
    folders = {run.folder.resolve(): run for run in runs}
    recipes = [read_recipe(config) for config in dict.fromkeys(configs)]
    found: dict[str, list[Run]] = {recipe.config: [] for recipe in recipes}
    remarks, strangers, elsewhere = [], [], []
    for run in runs:
        candidates = [recipe for recipe in recipes if recipe.test_set in run.test_sets]
        unequal = {r.config: run_differences(run, r, folders) for r in candidates}
        fits = _by_name(run, [recipe for recipe in candidates if not unequal[recipe.config]])
        if not candidates:
            strangers.append(run)
        elif len(fits) > 1:
            remarks.append(_ambiguous(run, fits))
        elif fits and (unfinished := _unfinished(run, fits[0].test_set)):
            remarks.append(unfinished)
        elif fits:
            found[fits[0].config].append(run)
        elif not _is_one_of(run, others, folders):
            remarks.append(_nearest(run, unequal))
        else:
            elsewhere.append(run)
    for recipe in recipes:
        found[recipe.config] = _one_a_seed(found[recipe.config], recipe.test_set, remarks)
    remarks += _versions(found)
    if elsewhere:
        remarks.append(f"{_folders(elsewhere)}: of configs that are in no row here")
    for test_sets, group in _by_test_sets(strangers).items():
        remarks.append(f"{_folders(group)}: evaluated on {test_sets}, as no row here")
    return Matching(found, remarks)


def _on(run: Run, test_set: str) -> list[Evaluation]:
    return [evaluation for evaluation in run.evaluations if evaluation.dataset == test_set]


def _time(run: Run, test_set: str) -> str:
    return max(str(evaluation.provenance.get("time", "")) for evaluation in _on(run, test_set))


def _by_name(run: Run, fits: list[Recipe]) -> list[Recipe]:
    """Of recipes that differ in their starts alone, the one that the weights' folder is named by.

    Evaluated apart from its training, nothing else tells what a run started from.
    """
    parts = set(Path(run.config.get("OUTPUT_DIR", "")).parts)
    parts |= set(Path(run.config.get(WEIGHTS, "")).parts)
    named = [recipe for recipe in fits if recipe.output.name in parts]
    return named if len(fits) > 1 and len(named) == 1 else fits


def _is_one_of(run: Run, configs: Sequence[str], runs: Mapping[Path, Run]) -> bool:
    recipes = (read_recipe(config) for config in configs)
    return any(r.test_set in run.test_sets and not run_differences(run, r, runs) for r in recipes)


def _unfinished(run: Run, test_set: str) -> str:
    for evaluation in _on(run, test_set):
        if not evaluation.is_final:
            done, of = evaluation.provenance["iteration"], evaluation.config["SOLVER.MAX_ITER"]
            return (
                f"{run.folder}: evaluated after {done} of {of} iterations; continue it with "
                "longtail train --resume"
            )
    return ""


def _ambiguous(run: Run, fits: Sequence[Recipe]) -> str:
    names = ", ".join(recipe.config for recipe in fits)
    return (
        f"{run.folder}: one of {names}, which differ in {WEIGHTS} alone; an evaluation apart from "
        "the training does not tell which: give its folder that config's name"
    )


def _nearest(run: Run, unequal: Mapping[str, Differences]) -> str:
    config = min(unequal, key=lambda name: len(unequal[name]))
    keys = unequal[config]
    texts = [f"{key} {_short(value)} ({_short(wanted)})" for key, (value, wanted) in keys.items()]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    what = "1 key differs" if len(texts) == 1 else f"{len(texts)} keys differ"
    return f"{run.folder}: {what} from {config}: {', '.join(texts[:SHOWN])}{more}"


def _one_a_seed(runs: list[Run], test_set: str, remarks: list[str]) -> list[Run]:
    """Sort by seed, and leave the older of two with one seed out; -1 is no seed."""
    kept: dict[Any, Run] = {}
    for run in sorted(runs, key=lambda run: (run.seed, _time(run, test_set))):
        key = run.seed if run.seed >= 0 else run.folder
        if key in kept:
            remarks.append(
                f"{kept[key].folder}: the seed {run.seed} is also that of {run.folder}, which is "
                "newer and counts"
            )
        kept[key] = run
    return list(kept.values())


def _versions(found: Mapping[str, Sequence[Run]]) -> list[str]:
    """Say which test set is not the same in all runs; one that is drawn by seed is not."""
    versions: dict[str, dict[str, Run]] = {}
    for config, runs in found.items():
        test_set = read_recipe(config).test_set
        for run in runs:
            for evaluation in _on(run, test_set):
                versions.setdefault(test_set, {}).setdefault(evaluation.fingerprint, run)
    return [
        f"{test_set} has other images or labels (another fingerprint) in some of these runs: "
        f"{_folders(list(runs.values()))}"
        for test_set, runs in versions.items()
        if len(runs) > 1
    ]


def _by_test_sets(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(", ".join(run.test_sets), []).append(run)
    return groups


def _folders(runs: Sequence[Run]) -> str:
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return ", ".join(str(run.folder) for run in runs[:SHOWN]) + more


def _short(value: Any) -> str:
    text = str(value)
    return repr(value) if isinstance(value, str) else textwrap.shorten(text, 60)
