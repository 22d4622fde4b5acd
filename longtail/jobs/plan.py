# SPDX-License-Identifier: Apache-2.0
"""Which training runs and evaluations the rows of a table need, stage by stage."""

import functools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longtail.config.loading import CONFIGS, find_config_file, flat_config, load_config

CHECKPOINT = "model_final.pth"
_OUTPUT = re.compile(r"^OUTPUT_DIR:\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """A line of a table: a config, run once for each seed.

    Attributes:
        config: a file, or the name of a packaged config.
        options: alternating keys and values, of this row alone: a first stage that it starts from
            is trained as its own config says.
        variant: what sets the row apart from others of the same config; a folder's name.
    """

    config: str
    options: tuple[str, ...] = ()
    variant: str = ""


@dataclass(frozen=True, eq=False)
class Job:
    """One training run with the evaluation at its end, or an evaluation alone.

    Attributes:
        name: its folder below the output folder.
        config: a file, or the name of a packaged config.
        seed: SEED.
        folder: OUTPUT_DIR.
        options: all alternating keys and values but OUTPUT_DIR.
        eval_only: whether a post hoc method is evaluated, which trains nothing.
        first: the job whose checkpoint it starts from.
        environment: variables of the process, besides those that there are.
        settings: the complete config, by full key.
        imports: modules that the program imports first, see :func:`.load_config`.
    """

    name: str
    config: str
    seed: int
    folder: Path
    options: tuple[str, ...]
    eval_only: bool
    first: "Job | None"
    environment: dict[str, str]
    settings: dict[str, Any] = field(repr=False)
    imports: tuple[str, ...] = ()

    @property
    def stage(self) -> int:
        """0, or one more than that of ``first``."""
        return 0 if self.first is None else self.first.stage + 1

    @property
    def checkpoint(self) -> Path:
        """The weights that it leaves."""
        return self.folder / CHECKPOINT

    def arguments(self, num_gpus: int) -> list[str]:
        """The arguments of ``longtail``; the same ones continue what was interrupted.

        Args:
            num_gpus: GPUs of the job; 0 on a machine without one.
        """
        gpus = ["--num-gpus", str(num_gpus)] if num_gpus else []
        mode = "--eval-only" if self.eval_only else "--resume"
        overrides = [*self.options, "OUTPUT_DIR", str(self.folder)]
        imports = [item for name in self.imports for item in ("--import", name)]
        return ["train", "--config-file", self.config, mode, *gpus, *imports, *overrides]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a table needs.

    Attributes:
        jobs: each once, a stage after the other; those of a seed together.
        by_row: the jobs of each row, one a seed.
    """

    jobs: tuple[Job, ...]
    by_row: dict[Row, tuple[Job, ...]]


def make_plan(
    rows: Iterable[Row],
    seeds: Sequence[int],
    output: str | os.PathLike,
    *,
    options: Sequence[str] = (),
    datasets: Callable[[int], str | os.PathLike] | None = None,
    imports: Sequence[str] = (),
) -> Plan:
    """Plan the jobs of some rows; nothing is read but configs.

    A first stage is found by ``MODEL.WEIGHTS``: the config whose ``OUTPUT_DIR`` that checkpoint is
    in. It is a job that all rows share which start from it, and the later stage of a seed starts
    from the first one of the same seed.

    Args:
        rows: of one or several tables; the same one may be there twice.
        seeds: values of SEED.
        output: folder of all runs, ``<output>/<config>[/<variant>]/seed<N>``.
        options: keys and values of every job, first stages included.
        datasets: the folder of the data sets of a seed, if it is not the environment's.
        imports: modules that every job may import, see :func:`.load_config`.

    Raises:
        ValueError: a bad config, or two jobs of one folder.
        FileNotFoundError: there is no such config.
        ImportError: a module cannot be imported.
    """
    planner = _Planner(Path(output), tuple(options), datasets, tuple(imports))
    rows = tuple(dict.fromkeys(rows))
    jobs = [[planner.job(row, seed) for row in rows] for seed in seeds]
    by_row = {row: tuple(of_seed[i] for of_seed in jobs) for i, row in enumerate(rows)}
    ordered = sorted(planner.jobs.values(), key=lambda job: (job.stage, seeds.index(job.seed)))
    return Plan(tuple(ordered), by_row)


def first_stage(config: str, weights: str) -> str | None:
    """The config whose run leaves some weights, None if they are not those of a config.

    Args:
        config: that starts from them; its neighbours are looked at before the packaged configs.
        weights: its MODEL.WEIGHTS, such as ``output/digits-LT/linear/model_final.pth``.
    """
    folder, name = os.path.split(weights)
    if name != CHECKPOINT or "://" in weights:
        return None
    path = Path(find_config_file(config)).resolve()
    for found in _configs_by_output(path.parent).get(folder, []):
        if found != path:
            return _short(found, config)
    for found in _configs_by_output(CONFIGS, recursive=True).get(folder, []):
        if found != path:
            return _short(found, config)
    return None


class _Planner:
    def __init__(
        self,
        output: Path,
        options: tuple[str, ...],
        datasets: Callable[[int], str | os.PathLike] | None,
        imports: tuple[str, ...],
    ) -> None:
        self.output, self.options, self.datasets = output, options, datasets
        self.imports = imports
        self.jobs: dict[Path, Job] = {}

    def job(self, row: Row, seed: int) -> Job:
        """The job of a row and a seed, made once, with those before it."""
        name = "/".join(filter(None, (config_name(row.config), row.variant, f"seed{seed}")))
        folder = self.output / name
        options = (*self.options, *row.options)
        settings = _settings(row.config, options, self.imports)
        first = None
        if "MODEL.WEIGHTS" not in options[::2]:
            source = first_stage(row.config, settings["MODEL.WEIGHTS"])
            first = source and self.job(Row(source), seed)
        made = self.jobs.get(folder)
        if made is not None:
            same = find_config_file(made.config), find_config_file(row.config)
            if not os.path.samefile(*same) or made.options[: len(options)] != options:
                raise ValueError(
                    f"{made.config} and {row.config} would both be run in {folder}: rename one"
                )
            return made
        eval_only = bool(settings["MODEL.POST_HOC.METHOD"])
        if eval_only and not settings["MODEL.WEIGHTS"]:
            raise ValueError(
                f"{row.config} changes a trained model, but MODEL.WEIGHTS is empty: name it"
            )
        changed = {"SEED": seed, **({"MODEL.WEIGHTS": str(first.checkpoint)} if first else {})}
        if settings["TEST.EXPECTED_RESULTS"]:
            # They are those of one seed.
            changed["TEST.EXPECTED_RESULTS"] = []
        self.jobs[folder] = Job(
            name,
            row.config,
            seed,
            folder,
            (*options, *(str(item) for pair in changed.items() for item in pair)),
            eval_only,
            first or None,
            {"DETECTRON2_DATASETS": str(self.datasets(seed))} if self.datasets else {},
            {**settings, **changed},
            self.imports,
        )
        return self.jobs[folder]


def config_name(config: str) -> str:
    """The name of a config in folders: below ``configs/``, or that of the file, without ending."""
    path = Path(find_config_file(config)).resolve()
    if path.is_relative_to(CONFIGS.resolve()):
        path = path.relative_to(CONFIGS.resolve())
        return path.with_suffix("").as_posix()
    return path.stem


@functools.lru_cache(maxsize=4096)
def _settings(config: str, options: tuple[str, ...], imports: tuple[str, ...]) -> dict[str, Any]:
    if len(options) % 2:
        raise ValueError(f"expected pairs of KEY VALUE, got {' '.join(options)}")
    return flat_config(load_config(config, options, imports=imports))


@functools.cache
def _configs_by_output(folder: Path, *, recursive: bool = False) -> dict[str, list[Path]]:
    """The config files of a folder by their OUTPUT_DIR."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.yaml") if recursive else folder.glob("*.yaml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        for output in _OUTPUT.findall(text):
            found.setdefault(output.strip("'\""), []).append(path.resolve())
    return found


def _short(path: Path, config: str) -> str:
    """A path as it would be typed: the name of a packaged config, or beside the other config."""
    if path.is_relative_to(CONFIGS.resolve()):
        return path.relative_to(CONFIGS.resolve()).as_posix()
    return os.path.join(os.path.dirname(config), path.name)
