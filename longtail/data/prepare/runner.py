# SPDX-License-Identifier: Apache-2.0
"""Preparation of a whole data set: pair the files, convert them in parallel, report."""

import functools
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from detectron2.utils import comm
from tqdm import tqdm

from longtail.data.datasets.files import IMAGE_SUFFIXES, files_by_stem, read_stems
from longtail.data.prepare.labels import Pair, convert_pair, is_converted
from longtail.data.prepare.recipe import Recipe, SourceError, Split
from longtail.data.prepare.writing import write_if_changed
from longtail.utils.cores import cores_of_process
from longtail.utils.distributed import in_all_processes

# Whether there was anything to do, or what is wrong with the source.
Outcome = bool | SourceError


@dataclass
class Report:
    """Outcome of a preparation.

    Attributes:
        written: number of label maps, and of files beside them, that were written.
        skipped: number of those that were there already.
        problems: one line for each file that is missing or wrong, with the fix.
        warnings: one line for each split that the source may lack, and does.
    """

    written: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def prepare(
    recipe: Recipe,
    root: str,
    *,
    source: str | None = None,
    splits: list[str] | None = None,
    workers: int | None = None,
) -> Report:
    """Prepare one data set; see :func:`longtail.data.prepare.prepare_dataset`.

    Within :func:`~longtail.utils.distributed.from_main_process` all processes convert a part.
    """
    workers = cores_of_process() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    source = os.path.join(root, recipe.source) if source is None else source
    if not os.path.isdir(source):
        raise FileNotFoundError(
            f"the source folder {source} is missing; unpack {recipe.archive} there, or name "
            "its folder with --source"
        )
    report = Report()
    pairs: list[Pair] = []
    chosen = _chosen_splits(recipe, recipe.splits(source, root), splits)
    for split in chosen:
        pairs += _plan_split(split, recipe, source, report, named=splits is not None)
    convert = functools.partial(_convert_share, recipe=recipe, workers=workers)
    outcomes = in_all_processes(convert, pairs)
    lost = _lost(outcomes, pairs)
    for index, outcome in zip(lost, convert([pairs[i] for i in lost]), strict=True):
        outcomes[index] = outcome
    further = recipe.complete(source, root, chosen) if recipe.complete else ()
    for outcome in itertools.chain(outcomes, further):
        if isinstance(outcome, SourceError):
            report.problems.append(str(outcome))
        elif outcome:
            report.written += 1
        else:
            report.skipped += 1
    return report


def _chosen_splits(recipe: Recipe, known: list[Split], names: list[str] | None) -> list[Split]:
    by_name = {split.name: split for split in known}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        raise ValueError(f"{recipe.name} has no split {unknown[0]!r}, only {', '.join(by_name)}")
    return [split for split in known if names is None or split.name in names]


def _plan_split(
    split: Split, recipe: Recipe, source: str, report: Report, *, named: bool
) -> list[Pair]:
    """Pair the files of a split; what is missing goes into the report."""
    needed = [path for path in (split.images, split.labels, split.names) if path is not None]
    missing = [path for path in needed if not os.path.exists(path)]
    if missing == needed and split.optional and not named:
        report.warnings.append(
            f"{recipe.name}: split {split.name} is skipped, {source} does not have it"
        )
        return []
    if missing:
        report.problems += [
            f"{path}: missing; take it from {_origin(path, split, recipe)}, or leave the split "
            f"{split.name} out with --splits"
            for path in missing
        ]
        return []
    images = files_by_stem(split.images, IMAGE_SUFFIXES)
    labels = files_by_stem(split.labels, (recipe.label_suffix,))
    stems = read_stems(split.names) if split.names else sorted(images.keys() | labels.keys())
    if not stems:
        report.problems.append(f"{split.images}: no images; unpack {recipe.archive} again")
    report.problems += _missing_files(stems, images, labels, split, recipe)
    if split.names and not _is_same(split.names, split.names_target):
        with open(split.names, "rb") as names:
            write_if_changed(split.names_target, names.read())
    in_place = _is_same(split.images, split.image_target)
    return [
        Pair(
            image=images[stem],
            label=labels[stem],
            image_target=images[stem]
            if in_place
            else os.path.join(split.image_target, os.path.basename(images[stem])),
            label_target=os.path.join(split.label_target, stem + ".png"),
        )
        for stem in stems
        if stem in images and stem in labels
    ]


def _missing_files(
    stems: list[str], images: dict[str, str], labels: dict[str, str], split: Split, recipe: Recipe
) -> list[str]:
    problems = []
    for stem in stems:
        if stem not in labels:
            path = os.path.join(split.labels, stem + recipe.label_suffix)
            problems.append(f"{path}: missing label; take it from {recipe.archive}")
        if stem not in images:
            path = os.path.join(split.images, stem + IMAGE_SUFFIXES[0])
            origin = _origin(split.images, split, recipe)
            problems.append(f"{path}: missing image; take it from {origin}")
    return problems


def _origin(path: str, split: Split, recipe: Recipe) -> str:
    """Name the archive that ``path``, an image folder or anything else, comes from."""
    return (path == split.images and split.image_archive) or recipe.archive


def _is_same(path: str, target: str) -> bool:
    return os.path.exists(target) and os.path.samefile(path, target)


def _outcome(pair: Pair, recipe: Recipe) -> Outcome:
    try:
        return convert_pair(pair, recipe)
    except SourceError as problem:
        return problem


def _convert_share(pairs: Sequence[Pair], *, recipe: Recipe, workers: int) -> list[Outcome]:
    """Convert some pairs.

    Raises:
        FileNotFoundError: another process than the main one, which has listed them, lacks a file.
    """
    is_main = comm.is_main_process()
    if not is_main:
        for path in (path for pair in pairs for path in (pair.image, pair.label)):
            if not os.path.exists(path):
                raise FileNotFoundError(f"{path} is missing on this machine")
    # Threads: Pillow and zlib release the interpreter lock, so that they are as fast here as
    # processes, which would have to agree on who handles Ctrl-C.
    executor = ThreadPoolExecutor(workers)
    try:
        results = executor.map(functools.partial(_outcome, recipe=recipe), pairs)
        hidden = not (is_main and pairs)
        return list(tqdm(results, recipe.name, len(pairs), mininterval=1, disable=hidden))
    finally:
        # On Ctrl-C the files at hand are finished, the others are not begun.
        executor.shutdown(cancel_futures=True)


def _lost(outcomes: Sequence[Outcome], pairs: Sequence[Pair]) -> list[int]:
    """Which pairs other processes have written to disks of their own, and not here."""
    if comm.get_world_size() == 1:
        return []
    return [
        index
        for index, (outcome, pair) in enumerate(zip(outcomes, pairs, strict=True))
        if not isinstance(outcome, SourceError) and not is_converted(pair)
    ]
