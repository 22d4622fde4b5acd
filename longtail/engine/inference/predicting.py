# SPDX-License-Identifier: Apache-2.0
"""Predictions of many images, in one process or several, continued where they were ended."""

import functools
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from tqdm import tqdm

from longtail.data.formats.images import read_image
from longtail.data.formats.sources import Source, VideoReader, batches
from longtail.engine.inference.prediction_files import Wanted, check_record_is_here, write_image
from longtail.engine.inference.predictor import Predictor
from longtail.utils.cores import available_cores
from longtail.utils.distributed import from_main_process, in_all_processes
from longtail.utils.errors import one_line
from longtail.utils.processes import map_jobs


@dataclass(frozen=True)
class ModelChoice:
    """The arguments of a :class:`~.predictor.Predictor`, which every process makes its own of."""

    run_or_config: str
    weights: str
    device: str | None
    dataset: str
    imports: tuple[str, ...]

    def open(self, device: str | None = None) -> Predictor:
        """Build the model, on another device if one is given."""
        chosen = device or self.device
        return Predictor(
            self.run_or_config, self.weights, chosen, dataset=self.dataset, imports=self.imports
        )


class Worker:
    """A model with the files that it writes, and the video that it reads."""

    def __init__(self, predict: Predictor, wanted: Wanted) -> None:
        """Set what predicts and what is written.

        Args:
            predict: the model.
            wanted: what is written of each image.
        """
        self.predict, self.wanted = predict, wanted
        self._video: VideoReader | None = None

    def run(self, sources: Sequence[Source]) -> list[str]:
        """Predict a batch of images, and write what is wanted of each.

        Args:
            sources: the images; those of one size run together.

        Returns:
            A line for each image that cannot be read.

        Raises:
            ValueError: the model gives NaN.
            OSError: a file cannot be written.
        """
        problems, read = [], []
        for source in sources:
            try:
                read.append((source, self._pixels(source)))
            except (ValueError, FileNotFoundError) as error:
                problems.append(one_line(error))
        pixels = [image for _, image in read]
        names = [source.file_name for source, _ in read]
        outputs = self.predict.outputs(pixels, names, scores=self.wanted.scores)
        for (source, image), output in zip(read, outputs, strict=True):
            write_image(self.wanted, self.predict, source, image, output)
        return problems

    def _pixels(self, source: Source) -> np.ndarray:
        if source.frame is None:
            return read_image(source.path, "RGB")
        if self._video is None or self._video.path != source.path:
            self._video = VideoReader(source.path)
        return self._video.read(source.frame)


# Of this process.
_worker: list[Worker] = []


def _start(choice: ModelChoice, wanted: Wanted, processes: int, counter: Any) -> None:
    """Begin a process of several: it has its own model, and on several GPUs one of them."""
    with counter.get_lock():
        rank = counter.value
        counter.value += 1
    torch.set_num_threads(max(1, available_cores() // processes))
    device = choice.device
    if torch.cuda.is_available() and device in (None, "cuda") and torch.cuda.device_count() > 1:
        device = f"cuda:{rank % torch.cuda.device_count()}"
    _worker[:] = [Worker(choice.open(device), wanted)]


def _run(sources: Sequence[Source]) -> tuple[int, list[str]]:
    return len(sources), _worker[0].run(sources)


def predict_all(
    choice: ModelChoice,
    predict: Predictor,
    wanted: Wanted,
    sources: Sequence[Source],
    *,
    batch_size: int,
    processes: int,
) -> list[str]:
    """Predict images, with a bar that says how many are left and how long that takes.

    The processes of a distributed run, which all have to call this, predict a part each; the bar is
    then of the main process's part.

    Args:
        choice: what other processes build their model from.
        predict: the model; with ``processes`` above 1 only for its classes.
        wanted: what is written of each image.
        sources: the images, without those that are done.
        batch_size: images that a process reads at a time.
        processes: how many this one starts, 1 if it works itself.

    Returns:
        A line for each image that cannot be read.

    Raises:
        ValueError, OSError: as of :meth:`Worker.run`.
    """
    _worker[:] = [Worker(predict, wanted)]
    share = functools.partial(_predict_share, choice=choice, wanted=wanted, processes=processes)
    jobs = batches(sources, batch_size)
    try:
        problems = from_main_process(lambda: in_all_processes(share, jobs))
    finally:
        _worker.clear()
    return [line for lines in problems for line in lines]


def _predict_share(
    jobs: Sequence[Sequence[Source]], *, choice: ModelChoice, wanted: Wanted, processes: int
) -> list[list[str]]:
    """Predict some batches; gives a line for each image of a batch that cannot be read.

    Raises:
        ValueError: the main process's folder is on another disk; or as of :meth:`Worker.run`.
        FileNotFoundError: another process than the main one, which has listed them, lacks an image.
    """
    check_record_is_here(wanted.output)
    is_main = comm.is_main_process()
    if not is_main:
        for path in dict.fromkeys(source.path for job in jobs for source in job):
            if not os.path.exists(path):
                raise FileNotFoundError(f"{path} is missing on this machine")
    processes = min(processes, len(jobs))
    # Only read where there are several.
    counter = multiprocessing.get_context("spawn").Value("i", 0)
    arguments = (choice, wanted, processes, counter)
    found = map_jobs(
        *(_run, jobs, processes), chunk_size=1, initializer=_start, arguments=arguments
    )
    problems = []
    total, all_processes = sum(map(len, jobs)), comm.get_world_size()
    title = "predicting" if all_processes == 1 else f"predicting, share of 1 in {all_processes}"
    with tqdm(total=total, unit="image", desc=title, disable=not is_main) as bar:
        for number, lines in found:
            problems.append(lines)
            bar.update(number)
    return problems
