# SPDX-License-Identifier: Apache-2.0
"""All rows of CIFAR-100-LT, 200 epochs, for as many seeds as fit, on one GPU in minutes.

    bash benchmarks/device/run.sh --wheels WHEELS --cifar100 MOSAICS cifar100_lt --seconds 480

What ``python benchmarks/real_data.py CIFAR100-LT`` does in a process a run, in one
process: the first stages of a seed are trained at the same time (see several_models.py, which says
what is the same and what is not), then its second stages, then its post hoc methods. The folders of
the runs are those of that script, which continues what is here, or reads it: a checkpoint, the loss
in metrics.json, the evaluation. After each row its evaluation is on the disk, after each seed the
table. A seed is begun only if it will fit; if not even one does, its first rows are trained.

None of this has run on a GPU yet. By arithmetic a run is 0.9 PFLOP and some 26 TB (bfloat16) or 52
TB (float32) of traffic with the memory, 9 or 18 seconds of an H100 that is kept busy, against two
minutes of 17,000 steps that each wait for 400 kernels to be launched from Python. Grouped
convolutions (torch.func.vmap) would make larger kernels, which cuDNN is slow at for 16 channels a
group; several processes without MPS take turns. A CUDA graph with a branch for each model has
neither problem. Whether branches and channels_last pay is measured first, in some seconds.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import save_result
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage
from rows import folder_rows, printed, results_of
from several_models import Feed, Group, Images, Learner, OutOfTimeError

from longtail.analysis.runs import read_run
from longtail.config import load_config
from longtail.engine import Trainer
from longtail.engine.checkpoint import Checkpointer
from longtail.engine.deployment.post_hoc import apply_post_hoc
from longtail.engine.run import load_weights
from longtail.jobs.arguments import parse_seeds
from longtail.jobs.plan import Job, Plan, Row, make_plan
from longtail.jobs.state import is_done
from longtail.utils.errors import ending_in_one_line, first_line
from longtail.utils.io import atomic_write

BASELINE = "linear"
# Seconds of a seed's second stages, post hoc methods and evaluations, before they are measured.
AFTER_FIRST_STAGES = 40.0
LOG_EVERY = 20


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="CIFAR100-LT", help="folder of configs")
    parser.add_argument("--methods", nargs="+", help="configs; by default all of the folder")
    parser.add_argument("--seconds", type=float, default=480, help="the time that there is")
    parser.add_argument(
        "--seeds", type=parse_seeds, default=tuple(range(10)), metavar="N", help="at most"
    )
    parser.add_argument("--output", type=Path, default=Path("output/cifar100_lt"), metavar="DIR")
    parser.add_argument("--no-graphs", action="store_true", help="launch every kernel from Python")
    parser.add_argument("--options", nargs="*", default=[], metavar="KEY VALUE", help="of all runs")
    return parser.parse_args(arguments)


def on_the_same_images(rows: dict[str, Row]) -> dict[str, Row]:
    """The rows that are trained on the baseline's images, the only ones that are on the device.

    The empirical bound is not: it needs all of CIFAR-100.
    """
    trained = {label: load_config(row.config).DATASETS.TRAIN for label, row in rows.items()}
    others = [label for label, names in trained.items() if names != trained[BASELINE]]
    if others:
        print(f"left out, since trained on other images: {', '.join(others)}")
    return {label: row for label, row in rows.items() if label not in others}


class Study:
    """The runs of a table, their time, and what is kept of them.

    Attributes:
        figures: what is written beside the table.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Plan the runs, and read the images.

        Args:
            arguments: of :func:`parse_arguments`.
        """
        self.arguments = arguments
        self.start = time.monotonic()
        self.deadline = self.start + arguments.seconds
        self.rows = on_the_same_images(folder_rows(arguments.recipe, arguments.methods, BASELINE))
        self.plan = make_plan(
            self.rows.values(), arguments.seeds, arguments.output, options=arguments.options
        )
        self.figures: dict[str, Any] = {}
        self.choice: dict[str, Any] = {}
        cfg = config_of(self.plan.jobs[0])
        self.train_set = cfg.DATASETS.TRAIN[0]
        self.train = Images.read(cfg, self.train_set, is_train=True)
        self.test = Images.read(cfg, cfg.DATASETS.TEST[0], is_train=False)
        self.class_names = MetadataCatalog.get(self.train_set).thing_classes
        self._feeds: dict[tuple, Feed] = {}

    def left(self) -> float:
        """Seconds until the end."""
        return self.deadline - time.monotonic()

    def run(self) -> None:
        """Seed after seed, as long as there is time."""
        first_stages = self.jobs(self.arguments.seeds[0], stage=0)
        self.choose(first_stages)
        a_step = self.choice["seconds"]
        iterations = config_of(first_stages[0]).SOLVER.MAX_ITER
        expected = a_step * iterations + AFTER_FIRST_STAGES
        for number, seed in enumerate(self.arguments.seeds):
            jobs = [job for job in self.plan.jobs if job.seed == seed]
            if expected > self.left():
                if number:
                    print(f"{number} seeds are done; another takes {expected:.0f} s", flush=True)
                    return
                jobs = self.that_fit(jobs, a_step / len(first_stages) * iterations)
            begin = time.monotonic()
            try:
                self.run_seed(jobs)
            except OutOfTimeError:
                print(f"no time is left in seed {seed}", flush=True)
                return
            finally:
                self.save()
            expected = time.monotonic() - begin

    def that_fit(self, jobs: list[Job], seconds: float) -> list[Job]:
        """The first rows of a seed, with what follows from them.

        Raises:
            ValueError: there is no time for one.
        """
        number = int((self.left() - AFTER_FIRST_STAGES) / seconds)
        first = [job for job in jobs if job.stage == 0][: max(number, 0)]
        if not first:
            raise ValueError(
                f"a first stage takes {seconds:.0f} s, and {self.left():.0f} s are left: raise "
                "--seconds"
            )
        return [job for job in jobs if job in first or job.first in first]

    def jobs(self, seed: int, stage: int) -> list[Job]:
        """The trainings of a stage."""
        return [j for j in self.plan.jobs if (j.seed, j.stage) == (seed, stage) and not j.eval_only]

    def run_seed(self, jobs: Sequence[Job]) -> None:
        """Train and evaluate what is missing of a seed, a stage after the other."""
        for stage in sorted({job.stage for job in jobs}):
            missing = [job for job in jobs if job.stage == stage and not is_done(job)]
            # A first stage that has diverged has left nothing.
            missing = [j for j in missing if j.first is None or j.first.checkpoint.is_file()]
            trained = [job for job in missing if not job.eval_only]
            for learner, job in zip(self.trained(trained), trained, strict=True):
                if (bad := learner.first_not_finite()) is not None:
                    print(f"  {job.name}: the loss of iteration {bad} is not finite", flush=True)
                    continue
                keep(learner, job, self.class_names)
                # What an evaluation says of its moment.
                with EventStorage(learner.cfg.SOLVER.MAX_ITER):
                    self.evaluate(learner.cfg, learner.model, job)
            for job in missing:
                if job.eval_only:
                    cfg = config_of(job)
                    model = load_weights(cfg)
                    apply_post_hoc(cfg, model)
                    self.evaluate(cfg, model, job)

    def trained(self, jobs: Sequence[Job]) -> list[Learner]:
        """The learners of some runs, at the end of their training."""
        if not jobs:
            return []
        begin = time.monotonic()
        learners = [self.learner(job) for job in jobs]
        group = Group(learners, self.train, self.choice["branches"])
        group.train(graphs=self.choice["graph"], deadline=self.deadline)
        names = ", ".join(Path(job.config).stem for job in jobs)
        print(
            f"{time.monotonic() - self.start:.0f} s: seed {jobs[0].seed} of {names} in "
            f"{time.monotonic() - begin:.1f} s",
            flush=True,
        )
        return learners

    def learner(self, job: Job, *options: Any) -> Learner:
        """What trains a run."""
        cfg = config_of(job, "MODEL.CHANNELS_LAST", self.choice.get("channels_last", False))
        cfg.merge_from_list(list(options))
        key = (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH)
        key += (cfg.DATALOADER.SAMPLER_TRAIN, cfg.INPUT.CLASSIFICATION.PAD, cfg.INPUT.RANDOM_FLIP)
        if key not in self._feeds:
            self._feeds = {k: feed for k, feed in self._feeds.items() if k[0] == cfg.SEED}
            self._feeds[key] = Feed.draw(cfg, self.train.records)
        return Learner(cfg, self._feeds[key], self.class_names)

    def choose(self, jobs: Sequence[Job]) -> None:
        """Time a step of some runs in the ways that there are, and keep to the fastest."""
        graphs = torch.cuda.is_available() and not self.arguments.no_graphs
        ways = [{"graph": False, "branches": 1, "channels_last": False}]
        if graphs:
            branches = sorted({1, len(jobs)})
            ways += [
                {"graph": True, "branches": number, "channels_last": layout}
                for layout in (False, True)
                for number in branches
            ]
        for way in ways:
            self.choice = way
            steps = 20 if way["graph"] else 3
            short = ["SOLVER.MAX_ITER", steps + 1, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 0]
            try:
                learners = [self.learner(job, *short) for job in jobs]
                group = Group(learners, self.train, way["branches"])
                way["seconds"] = group.seconds(steps, graphs=way["graph"])
            except RuntimeError as error:
                way["failed"] = first_line(error)
            print(f"a step of {len(jobs)} models: {way}", flush=True)
        self.choice = min((way for way in ways if "seconds" in way), key=lambda w: w["seconds"])
        self.figures["a step, by the way it is made"] = ways

    @torch.no_grad()
    def evaluate(self, cfg: CfgNode, model: torch.nn.Module, job: Job) -> None:
        """Evaluate as ``longtail train`` does, from the images on the device."""
        model.eval()
        evaluator = Trainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])
        evaluator.reset()
        for start in range(0, len(self.test.records), 1000):
            part = slice(start, start + 1000)
            outputs = model.predictions(model.pooled(self.test.pixels[part]))
            evaluator.process(self.test.records[part], outputs)
        found = evaluator.evaluate()["classification"]
        print(f"  {job.name}: {found['mean_acc']:.2f}", flush=True)

    def save(self) -> None:
        """Write the table of the seeds that are complete, or of the rows of the first one."""
        done = {job for job in self.plan.jobs if is_done(job)}
        by_row = self.plan.by_row
        complete = [
            n
            for n in range(len(self.arguments.seeds))
            if all(jobs[n] in done for jobs in by_row.values())
        ]
        rows = {k: row for k, row in self.rows.items() if complete or by_row[row][0] in done}
        numbers = complete or [0]
        if BASELINE not in rows:
            return
        plan = Plan(
            self.plan.jobs, {row: tuple(by_row[row][n] for n in numbers) for row in rows.values()}
        )
        runs = {row: [read_run(job.folder) for job in jobs] for row, jobs in plan.by_row.items()}
        name = self.arguments.recipe
        written = results_of({name: rows}, plan, runs)
        print(f"\n{name}, {len(numbers)} seeds, percent, mean ± standard deviation")
        print(printed(written[name], "average"), flush=True)
        figures = {
            "seeds": [self.arguments.seeds[n] for n in numbers],
            "options": list(self.arguments.options),
            "tables": written,
            "seconds": time.monotonic() - self.start,
            **self.figures,
        }
        save_result(name.lower().replace("-", "_"), figures, self.arguments.output)


def config_of(job: Job, *options: Any) -> CfgNode:
    """The config of a run."""
    options = [*job.options, "OUTPUT_DIR", str(job.folder), *options]
    return load_config(job.config, options)


def keep(learner: Learner, job: Job, class_names: Sequence[str]) -> None:
    """Write the checkpoint, the config and the log of a run."""
    os.makedirs(job.folder, exist_ok=True)
    checkpointer = Checkpointer(learner.model, str(job.folder))
    checkpointer.class_names = class_names
    checkpointer.save_weights(job.checkpoint.stem)
    with atomic_write(os.path.join(job.folder, "config.yaml")) as file:
        file.write(learner.cfg.dump())
    losses, rates = learner.losses.tolist(), learner.rates[:, 0].tolist()
    last = len(losses) - 1
    with atomic_write(os.path.join(job.folder, "metrics.json")) as file:
        for iteration, (loss, rate) in enumerate(zip(losses, rates, strict=True)):
            if (iteration + 1) % LOG_EVERY == 0 or iteration == last:
                line = {"iteration": iteration, "total_loss": loss, "lr": rate}
                file.write(json.dumps(line) + "\n")


def main() -> None:
    """Run what fits."""
    arguments = parse_arguments()
    torch.backends.cudnn.benchmark = True
    with ending_in_one_line():
        Study(arguments).run()


if __name__ == "__main__":
    main()
