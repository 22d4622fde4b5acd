# SPDX-License-Identifier: Apache-2.0
"""The trainer: detectron2's, on any device, with mixed precision of either type."""

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import create_ddp_model
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter
from detectron2.engine.train_loop import HookBase, TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from longtail.config import installed_projects, say_if_there_is_no_gpu
from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.data.mappers.copy_paste import with_copy_paste
from longtail.data.samplers.training import build_train_sampler
from longtail.engine.checkpoint import Checkpointer, frozen_parts
from longtail.engine.inference.build import build_inference
from longtail.engine.inference.tta import SemanticSegmentorWithTTA
from longtail.engine.training.checkpoints import BestCheckpoint, PeriodicCheckpoint
from longtail.engine.training.data_sets import (
    build_mapper,
    check_first_files,
    check_test_sets,
    check_training_sets,
    training_records,
)
from longtail.engine.training.interruption import Interruption
from longtail.engine.training.loader import TrainingLoader
from longtail.engine.training.log import (
    CatchUp,
    Evaluation,
    HostMemory,
    HostMemoryPrinter,
    LogState,
    MetricsWriter,
    Writers,
)
from longtail.engine.training.pictures import LogPictures
from longtail.engine.training.sharding import check_sharding, shard, whole_model
from longtail.engine.training.solver import build_lr_scheduler, build_optimizer
from longtail.engine.training.speed import apply_speed_options
from longtail.engine.training.stages import (
    SecondStageCheckpointer,
    freeze,
    frozen_parameters_line,
    is_second_stage,
    trained_parameters_report,
)
from longtail.engine.training.step import StepTrainer
from longtail.engine.training.watchdog import Watchdog
from longtail.engine.training.writers import build_optional_writers, check_writers
from longtail.evaluation import LVISEvaluator, SemSegEvaluator, build_evaluator
from longtail.evaluation.coco import CocoEvaluator
from longtail.modeling.backbone.lora import check_lora
from longtail.modeling.roi_heads import check_box_classifier
from longtail.modeling.sem_seg.segmentor import check_padding
from longtail.utils.detectron2 import StatefulTrainer
from longtail.utils.errors import StoppedError, describe, is_foreseen, one_line
from longtail.utils.io import full_disk
from longtail.utils.names import registered
from longtail.utils.text import as_file_name


class Trainer(StatefulTrainer):
    """Training and testing as the config says.

    What differs from detectron2's: it also runs distributed on CPUs and in mixed precision on
    CPUs or in bfloat16, batch normalisation is synchronised over processes, checkpoints hold the
    optimizer's state, and data, optimizer, schedule and evaluators are ours.
    """

    # Whether it tests the model at the moment.
    is_evaluating = False

    def __init__(self, cfg: CfgNode) -> None:
        """Build model, optimizer, data and hooks, after checks of the config.

        Args:
            cfg: the complete config.
        """
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        _check_accumulation(cfg)
        check_sharding(cfg)
        check_writers(cfg)
        classes = check_training_sets(cfg)
        check_test_sets(cfg, self.build_evaluator, classes)
        self._pictures = LogPictures(cfg)
        model = self.build_model(cfg)
        # Bad options of testing end the training now, not at the first evaluation.
        inference = build_inference(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            SemanticSegmentorWithTTA(cfg, inference)
        checkpointer = Checkpointer
        if cfg.SOLVER.FSDP.ENABLED:
            # Before the optimizer, which is to hold the parts. And of an optional part of torch.
            from longtail.engine.training.sharded_checkpoint import ShardedCheckpointer

            model, checkpointer = shard(model), ShardedCheckpointer
        elif is_second_stage(model):
            freeze(model)
            logging.getLogger(__name__).info(trained_parameters_report(model))
            checkpointer = SecondStageCheckpointer
        elif frozen_parts(model):
            logging.getLogger(__name__).info(frozen_parameters_line(model))
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        if isinstance(data_loader, TrainingLoader):
            data_loader.seed(seed)
        device = torch.device(cfg.MODEL.DEVICE).type
        if not cfg.SOLVER.FSDP.ENABLED:
            # detectron2 names this process's GPU, which DistributedDataParallel refuses on a CPU.
            placement = {"device_ids": None} if device == "cpu" else {}
            model = create_ddp_model(model, broadcast_buffers=False, **placement)
        self._trainer = StepTrainer(
            model,
            data_loader,
            optimizer,
            device,
            seed=seed,
            dtype=cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else None,
            accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.class_names = classes
        self.checkpointer.optimizer = optimizer
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        """detectron2's hooks, with a log, checkpoints and evaluations that outlive a kill."""
        cfg = self.cfg
        self._metrics = MetricsWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
        self._optional = build_optional_writers(cfg)
        checkpoint = PeriodicCheckpoint(
            self.checkpointer,
            period=cfg.SOLVER.CHECKPOINT_PERIOD,
            minutes=cfg.SOLVER.CHECKPOINT_MINUTES,
            keep=cfg.SOLVER.CHECKPOINT_KEEP,
        )
        self._checkpoint = checkpoint
        replaced = (PeriodicCheckpointer, EvalHook, PeriodicWriter)
        hooks = [HostMemory(), *(h for h in super().build_hooks() if not isinstance(h, replaced))]
        hooks.append(LogState(self._metrics, self._optional))
        # Of a sharded model each process writes its part.
        if comm.is_main_process() or cfg.SOLVER.FSDP.ENABLED:
            hooks.append(checkpoint)
        # Evaluation comes after the checkpoint, so that it may fail; the log after both.
        last: list[HookBase] = [Evaluation(cfg.TEST.EVAL_PERIOD, self._evaluate)]
        if cfg.SOLVER.BEST_CHECKPOINT_METRIC:
            last.append(BestCheckpoint(self.checkpointer, cfg.SOLVER.BEST_CHECKPOINT_METRIC))
        if comm.is_main_process():
            last.append(Writers(self.build_writers(), period=20))
        watchdog = [Watchdog(cfg.SOLVER.HANG_MINUTES)] if cfg.SOLVER.HANG_MINUTES else []
        self._interruption = Interruption(checkpoint, everywhere=cfg.SOLVER.FSDP.ENABLED)
        return [*watchdog, *hooks, *last, CatchUp(last), self._interruption]

    def _evaluate(self) -> dict:
        self.is_evaluating = True
        try:
            sharded = self.cfg.SOLVER.FSDP.ENABLED
            model = whole_model(self.cfg, self.model) if sharded else self.model
            self._last_eval_results = self.test(self.cfg, model)
            if comm.is_main_process():
                self._pictures.put(model, self.storage)
        finally:
            self.is_evaluating = False
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        """detectron2's console with the host's memory, our metrics.json, and LOG.WRITERS."""
        console = CommonMetricPrinter(self.max_iter)
        return [console, HostMemoryPrinter(), self._metrics, *self._optional]

    def train(self) -> dict | None:
        """Train; what fails after a finished iteration leaves a checkpoint of it.

        Raises:
            StoppedError: the training can be continued from that checkpoint, or from an earlier
                one once there is room on the disk.
        """
        try:
            return super().train()
        except Exception as error:
            saved = self._save_after_failure()
            if saved and (number := self._interruption.received):
                # It has reached the data loader's workers, too, and what failed is their loss.
                raise self._interruption.ended(number, self.iter) from None
            if isinstance(error, StoppedError):
                raise
            if full_disk(error):
                raise StoppedError(
                    f"OUTPUT_DIR {self.cfg.OUTPUT_DIR}: {one_line(error)}; when there is room, the "
                    "same command with --resume continues"
                ) from error
            if saved and is_foreseen(error):
                raise StoppedError(
                    f"{describe(error)}; the same command with --resume continues after iteration "
                    f"{self.iter}"
                ) from error
            raise

    def after_train(self) -> None:
        """End at ``max_iter``, also a run that was resumed there to be evaluated."""
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    def _save_after_failure(self) -> bool:
        """Write a checkpoint of the last finished iteration, unless the model is half changed."""
        step = self._trainer
        # Of this iteration if it was over: an evaluation or a file has failed.
        last = self.iter if step.finished == self.iter else self.iter - 1
        # Of a sharded model the other processes have parts, and are elsewhere.
        if step.is_stepping or last < self.start_iter or self.cfg.SOLVER.FSDP.ENABLED:
            return False
        step.restore_buffers()
        self.iter = last
        if not comm.is_main_process():
            # The main process loses this one, and writes it.
            return True
        try:
            self._checkpoint.save()
        # The first failure is what is reported.
        except Exception as error:
            logging.getLogger(__name__).warning("no checkpoint could be written: %s", error)
            return False
        logging.getLogger(__name__).info(
            "a checkpoint of iteration %d was written: --resume continues from it", self.iter
        )
        return True

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on its device; batch statistics are shared in a run on several GPUs.

        Raises:
            ValueError: the config names a part that is not registered, or asks for a box
                classifier or a padding that the model does not have; or as
                :func:`.speed.apply_speed_options`.
        """
        for registry, key, name in (
            (META_ARCH_REGISTRY, "MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE),
            (BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME),
            (SEM_SEG_HEADS_REGISTRY, "MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME),
            (ROI_HEADS_REGISTRY, "MODEL.ROI_HEADS.NAME", cfg.MODEL.ROI_HEADS.NAME),
        ):
            registered(registry, name, key)
        say_if_there_is_no_gpu()
        model = super().build_model(cfg)
        check_box_classifier(cfg, model)
        check_padding(cfg, model)
        check_lora(cfg, model)
        on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
        if cfg.MODEL.SYNC_BN and on_gpu and comm.get_world_size() > 1:
            # torch's own conversion would drop the activation of timm's BatchNormAct2d.
            model = convert_sync_batchnorm(model)
        apply_speed_options(cfg, model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer by :func:`.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Build the schedule by :func:`.solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable:
        """Images, or what a project reads in their place."""
        for project in installed_projects():
            if (loader := project.train_loader(cfg)) is not None:
                return loader
        dataset = training_records(cfg)
        check_first_files(cfg, dataset)
        mapper = build_mapper(cfg, cfg.DATASETS.TRAIN[0], is_train=True)
        mapper = with_copy_paste(cfg, mapper, dataset)
        # Crops of image classification are squares: there is nothing to group.
        squares = isinstance(mapper, ClassificationDatasetMapper)
        return TrainingLoader(
            dataset,
            mapper,
            build_train_sampler(cfg, dataset),
            batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING and not squares,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """Build the loader of a test set, in batches for image classification."""
        mapper = build_mapper(cfg, dataset_name, is_train=False)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        if not isinstance(mapper, ClassificationDatasetMapper):
            return loader
        # Images of one size: one at a time, as detectron2 gives them, would starve a GPU.
        return DataLoader(
            loader.dataset,
            batch_size=max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()),
            sampler=loader.sampler,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
        )

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build the evaluator of a test set, which writes into OUTPUT_DIR/inference."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", as_file_name(dataset_name))
        return build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list | None = None) -> OrderedDict:
        """detectron2's test of the model as :func:`.inference.build_inference` runs it."""
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        elif isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        # Evaluators of others expect logits, and masks of pixels.
        forms = {
            "class_maps": all(isinstance(e, SemSegEvaluator) for e in evaluators),
            "unpasted": all(isinstance(e, (LVISEvaluator, CocoEvaluator)) for e in evaluators),
        }
        return super().test(cfg, build_inference(cfg, model, **forms), evaluators)

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> OrderedDict:
        """Multi-scale testing; the metrics' task gets the ending ``_TTA``."""
        model = SemanticSegmentorWithTTA(cfg, build_inference(cfg, model))
        evaluators = [
            build_evaluator(
                cfg, name, os.path.join(cfg.OUTPUT_DIR, "inference_TTA", as_file_name(name))
            )
            for name in cfg.DATASETS.TEST
        ]
        results = super().test(cfg, model, evaluators)
        return OrderedDict((f"{task}_TTA", metrics) for task, metrics in (results or {}).items())


def _check_accumulation(cfg: CfgNode) -> None:
    parts = cfg.SOLVER.ACCUMULATION_STEPS * comm.get_world_size()
    if cfg.SOLVER.ACCUMULATION_STEPS < 1 or cfg.SOLVER.IMS_PER_BATCH % parts:
        raise ValueError(
            f"SOLVER.ACCUMULATION_STEPS must be >= 1 and, times the number of processes, divide "
            f"SOLVER.IMS_PER_BATCH: got {cfg.SOLVER.ACCUMULATION_STEPS}, {comm.get_world_size()} "
            f"processes and {cfg.SOLVER.IMS_PER_BATCH}"
        )
