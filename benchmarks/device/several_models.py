# SPDX-License-Identifier: Apache-2.0
"""Train several small image classifiers at once, each as ``longtail train`` would train it alone.

A ResNet-32 on images of 32 pixels keeps a GPU waiting: a step is some 400 kernels of a few
microseconds, and Python takes longer to start one than the GPU to run it. Here the images lie on
the device, all that is random is drawn before the training, the step of all models is recorded once
as a CUDA graph, in which models are branches, and replayed. On a CPU the step runs as it is.

Initial weights, order of images, shifts, mirroring and learning rates are those of the Trainer for
the same config: all of them follow from SEED. What differs is rounding: the optimizer is torch's
fused one, learning rates are float32, and cuDNN chooses its algorithms by their speed.

Shape alphabet:
    T: iterations
    N: images of a batch
    M: images of a data set
    G: parameter groups of an optimizer
"""

import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.data.samplers.batches import BatchStream
from longtail.data.samplers.training import build_train_sampler
from longtail.engine import Trainer
from longtail.engine.training.stages import is_second_stage, load_second_stage
from longtail.engine.training.step import AMP_TYPES
from longtail.modeling.classification.augmentation import draw_shifts, move
from longtail.utils.randomness import derive_seed

WARM_UP = 3  # steps before a recording: cuDNN compares its algorithms, libraries take their memory
CHECK_EVERY = 500  # iterations between two looks at the clock


class OutOfTimeError(RuntimeError):
    """The time is over in the middle of a training."""


@dataclass(frozen=True)
class Images:
    """A data set on the device.

    Attributes:
        records: as registered, M.
        pixels: (M, 3, H, W) uint8.
        labels: (M,) int64.
    """

    records: list[dict]
    pixels: Tensor
    labels: Tensor

    @classmethod
    def read(cls, cfg: CfgNode, name: str, *, is_train: bool) -> "Images":
        """Read all images of a registered data set."""
        records = DatasetCatalog.get(name)
        mapper = ClassificationDatasetMapper(cfg, is_train=is_train)
        with ThreadPoolExecutor() as executor:
            pixels = torch.stack([item["image"] for item in executor.map(mapper, records)])
        labels = torch.tensor([record["label"] for record in records])
        return cls(records, pixels.to(cfg.MODEL.DEVICE), labels.to(cfg.MODEL.DEVICE))


@dataclass(frozen=True)
class Feed:
    """All batches of a training, drawn before it.

    Attributes:
        index: (T, N) int64, images of the data set.
        shifts: (T, 2, N) int64, where crops begin.
        mirrored: (T, N) bool.
        pad: pixels on each side of an image.
    """

    index: Tensor
    shifts: Tensor
    mirrored: Tensor
    pad: int

    @classmethod
    def draw(cls, cfg: CfgNode, records: Sequence[dict]) -> "Feed":
        """Draw what the Trainer of a config would draw.

        Args:
            cfg: with a SEED >= 0.
            records: of its training set.
        """
        sampler = build_train_sampler(cfg, records, seed=cfg.SEED)
        batches = itertools.islice(
            BatchStream(sampler, cfg.SOLVER.IMS_PER_BATCH), cfg.SOLVER.MAX_ITER
        )
        index = torch.tensor([[draw.index for draw in batch] for batch in batches])
        pad, flip = cfg.INPUT.CLASSIFICATION.PAD, cfg.INPUT.RANDOM_FLIP == "horizontal"
        drawn = []
        for iteration in range(len(index)):
            # As longtail.engine.training.step; the generator of the CPU alone is drawn from.
            torch.default_generator.manual_seed(derive_seed(cfg.SEED, iteration, 0))
            drawn.append(draw_shifts(index.shape[1], pad, flip=flip))
        shifts, mirrored = (torch.stack(part) for part in zip(*drawn, strict=True))
        device = cfg.MODEL.DEVICE
        return cls(index.to(device), shifts.to(device), mirrored.to(device), pad)

    def batch(self, images: Images, iteration: Tensor) -> tuple[Tensor, Tensor]:
        """The (N, 3, H, W) images, shifted, and (N,) classes of an iteration, a (1,) tensor."""
        index = self.index.index_select(0, iteration)[0]
        shifts = self.shifts.index_select(0, iteration)[0]
        mirrored = self.mirrored.index_select(0, iteration)[0]
        return move(images.pixels[index], shifts, mirrored, self.pad), images.labels[index]


class Learner:
    """A model with its optimizer, schedule and batches."""

    def __init__(self, cfg: CfgNode, feed: Feed, class_names: Sequence[str]) -> None:
        """Build what the Trainer would.

        Args:
            cfg: of an image classifier, by SGD, with a SEED >= 0.
            feed: its batches.
            class_names: of the training set.

        Raises:
            ValueError: the recipe is not one that this can train.
        """
        _check(cfg)
        # As detectron2's default_setup does before a Trainer is built.
        seed_all_rng(cfg.SEED)
        self.cfg, self.feed = cfg, feed
        self.model = Trainer.build_model(cfg).train()
        if is_second_stage(self.model):
            load_second_stage(self.model, cfg.MODEL.WEIGHTS, class_names)
            if hasattr(self.model, "log_calibration"):
                # A log of every step makes a GPU wait; of the training it changes nothing.
                self.model.log_calibration = lambda *_: None
        self.optimizer = Trainer.build_optimizer(cfg, self.model)
        groups = self.optimizer.param_groups
        self.rates = _rates(cfg, tuple(group["lr"] for group in groups)).to(cfg.MODEL.DEVICE)
        self.parameters = [p for group in groups for p in group["params"]]
        for group in groups:
            group.update(fused=True, foreach=False)
        for parameter in self.parameters:
            # A first step from zeros is torch's first step; a recording must not be of that alone.
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.losses = torch.full((len(self.rates),), torch.nan, device=cfg.MODEL.DEVICE)
        amp = cfg.SOLVER.AMP
        self.dtype = AMP_TYPES[amp.DTYPE] if amp.ENABLED else None

    def learn(self, images: Tensor, classes: Tensor, iteration: Tensor) -> None:
        """One step on a batch; ``iteration`` is a (1,) tensor."""
        with torch.autocast(
            images.device.type, self.dtype, enabled=self.dtype is not None, cache_enabled=False
        ):
            loss = self.model.loss(self.model.pooled(images), classes)
        # Not backward: nothing is accumulated, on whatever stream that would be.
        gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # The fused optimizer needs the layout of the parameter.
            if gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        rates = self.rates.index_select(0, iteration)[0].unbind()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.step()
        self.losses.index_copy_(0, iteration, loss.detach().float()[None])

    def first_not_finite(self) -> int | None:
        """The first iteration whose loss is not finite; None where all are."""
        bad = (~self.losses.isfinite()).nonzero().flatten().tolist()
        return bad[0] if bad else None

    def changes(self) -> list[int]:
        """Iterations from which the loss computes something else."""
        found = {getattr(module, "reweight_from", 0) for module in self.model.modules()}
        return sorted(found - {0})

    def state(self) -> list[Tensor]:
        """All tensors that a step changes."""
        moments = [self.optimizer.state[p]["momentum_buffer"] for p in self.parameters]
        return [*self.model.state_dict(keep_vars=True).values(), *moments, self.losses]


class Group:
    """Learners of equally many iterations that make their steps together."""

    def __init__(self, learners: Sequence[Learner], images: Images, branches: int = 1) -> None:
        """Put them together.

        Args:
            learners: at least one.
            images: the training set.
            branches: how many learners may be at work at the same time, on a GPU.
        """
        self.learners, self.images = list(learners), images
        device = images.pixels.device
        self.on_gpu = device.type == "cuda"
        self.iteration = torch.zeros(1, dtype=torch.int64, device=device)
        number = min(branches, len(self.learners)) if self.on_gpu else 0
        self.streams = [torch.cuda.Stream() for _ in range(number)]

    def step(self) -> None:
        """One step of every learner."""
        batches: dict[int, tuple[Tensor, Tensor]] = {}
        for learner in self.learners:
            if id(learner.feed) not in batches:
                batches[id(learner.feed)] = learner.feed.batch(self.images, self.iteration)
        if not self.streams:
            for learner in self.learners:
                learner.learn(*batches[id(learner.feed)], self.iteration)
        else:
            self._branch(batches)
        self.iteration.add_(1)

    def _branch(self, batches: dict[int, tuple[Tensor, Tensor]]) -> None:
        main = torch.cuda.current_stream()
        for stream in self.streams:
            stream.wait_stream(main)
        for number, learner in enumerate(self.learners):
            with torch.cuda.stream(self.streams[number % len(self.streams)]):
                learner.learn(*batches[id(learner.feed)], self.iteration)
        for stream in self.streams:
            main.wait_stream(stream)

    def record(self) -> Callable[[], None]:
        """Record a step as a CUDA graph; nothing has been learned after that."""
        state = [self.iteration, *(t for learner in self.learners for t in learner.state())]
        kept = [tensor.detach().clone() for tensor in state]
        # The last iterations, too, are recorded: none may come after them.
        self.iteration.zero_()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(min(WARM_UP, len(self.learners[0].losses))):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.step()
        finally:
            self._restore(state, kept)
        return graph.replay

    @torch.no_grad()
    def _restore(self, state: list[Tensor], kept: list[Tensor]) -> None:
        for tensor, before in zip(state, kept, strict=True):
            tensor.copy_(before)

    def train(self, *, graphs: bool = True, deadline: float = float("inf")) -> None:
        """All iterations.

        Args:
            graphs: replay a recording, on a GPU.
            deadline: the value of ``time.monotonic`` at which to give up.

        Raises:
            OutOfTimeError: the deadline has passed.
        """
        total = len(self.learners[0].losses)
        changes = {t for learner in self.learners for t in learner.changes() if t < total}
        bounds = sorted({0, total, *changes})
        for start, end in itertools.pairwise(bounds):
            with EventStorage(start) as storage:
                step = self.record() if graphs and self.on_gpu else self.step
                for iteration in range(start, end):
                    storage.iter = iteration
                    step()
                    if iteration % CHECK_EVERY == 0:
                        self._look_at_the_clock(deadline)

    def seconds(self, repeats: int, *, graphs: bool = True) -> float:
        """The time of a step; what it learns is not kept.

        Args:
            repeats: fewer than there are iterations.
            graphs: replay a recording, on a GPU.
        """
        state = [self.iteration, *(t for learner in self.learners for t in learner.state())]
        kept = [tensor.detach().clone() for tensor in state]
        with EventStorage():
            step = self.record() if graphs and self.on_gpu else self.step
            step()
            self._wait()
            start = time.perf_counter()
            for _ in range(repeats):
                step()
            self._wait()
            found = (time.perf_counter() - start) / repeats
        self._restore(state, kept)
        return found

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def _look_at_the_clock(self, deadline: float) -> None:
        self._wait()
        if time.monotonic() > deadline:
            raise OutOfTimeError


# By recipe and first rates: a table of 17,000 takes a second, and rows of a seed share it.
_rates_of: dict[tuple[str, tuple[float, ...]], Tensor] = {}


def _rates(cfg: CfgNode, first: tuple[float, ...]) -> Tensor:
    """The (T, G) learning rates of a recipe, from the (G,) first ones."""
    key = (cfg.SOLVER.dump(), first)
    if key not in _rates_of:
        # Not of the optimizer that trains: a schedule changes it.
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in first]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        schedule = Trainer.build_lr_scheduler(cfg, optimizer)
        table = []
        with warnings.catch_warnings():
            # Of a schedule that goes ahead of its optimizer, here on purpose.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(cfg.SOLVER.MAX_ITER):
                table.append([group["lr"] for group in optimizer.param_groups])
                schedule.step()
        _rates_of[key] = torch.tensor(table, dtype=torch.float32)
    return _rates_of[key]


def _check(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    for key, value, expected in (
        ("SEED", cfg.SEED >= 0, "0 or more"),
        ("SOLVER.OPTIMIZER", solver.OPTIMIZER == "SGD", "SGD"),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", not solver.CLIP_GRADIENTS.ENABLED, "False"),
        ("SOLVER.ACCUMULATION_STEPS", solver.ACCUMULATION_STEPS == 1, "1"),
        ("INPUT.CLASSIFICATION.PAD", cfg.INPUT.CLASSIFICATION.PAD > 0, "more than 0"),
        (
            "SOLVER.AMP.DTYPE",
            not solver.AMP.ENABLED or solver.AMP.DTYPE == "bfloat16",
            "bfloat16, which needs no scaling of losses",
        ),
    ):
        if not value:
            raise ValueError(f"{key} must be {expected} for models that are trained together")
