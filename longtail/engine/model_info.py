# SPDX-License-Identifier: Apache-2.0
"""The size of a model: parameters, operations of an inference, memory of a training step.

Shapes: H, W height and width of an image; K classes.
"""

import warnings
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from longtail.config import deployed_config
from longtail.data.statistics.class_stats import get_class_stats
from longtail.engine import Trainer
from longtail.engine.deployment.export import ImageToTensors, random_images
from longtail.engine.training.stages import freeze, is_second_stage
from longtail.utils.detectron2 import traceable_roi_heads

# Of which a step is looked at: batch statistics need more than one.
IMAGES = 2
OBJECTS = 8
# A float32 weight, its gradient, and what the optimizer keeps of it.
BYTES = 4
STATE = {"SGD": 1, "AdamW": 2}


@dataclass(frozen=True)
class Deployed:
    """The model as it is left for inference.

    Attributes:
        parameters: numbers by module, of the outermost modules.
        size: (H, W) of the image.
        flops: multiply-adds of it by module, as fvcore counts them.
    """

    parameters: dict[str, int]
    size: tuple[int, int]
    flops: dict[str, int]


@dataclass(frozen=True)
class Training:
    """A step of training.

    Attributes:
        parameters: of the model in training.
        trained: of these, those that are not frozen.
        weights: bytes of weights, gradients and the optimizer's state.
        activations: bytes that are kept for the backward pass, of one image of ``size``.
        size: (H, W).
    """

    parameters: int
    trained: int
    weights: int
    activations: int
    size: tuple[int, int]


def image_size(cfg: CfgNode) -> tuple[int, int]:
    """(H, W) that stands for a config's images: the crop, or the shorter side by 4 : 3."""
    if cfg.MODEL.META_ARCHITECTURE.endswith("ImageClassifier"):
        return (cfg.INPUT.CLASSIFICATION.SIZE,) * 2
    if cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "absolute":
        return tuple(cfg.INPUT.CROP.SIZE)
    height = max(cfg.INPUT.MIN_SIZE_TRAIN)
    return height, min(round(height * 4 / 3), cfg.INPUT.MAX_SIZE_TRAIN)


def measure_deployed(cfg: CfgNode) -> Deployed:
    """Build the model that is left for inference, and count."""
    model = Trainer.build_model(deployed_config(cfg)).eval()
    size = image_size(cfg)
    (image,) = random_images([size], model.device)
    with torch.no_grad(), warnings.catch_warnings(), traceable_roi_heads():
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(ImageToTensors(model), image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counts = analysis.by_module()
    names = [name for name, _ in model.named_children()]
    parameters = {name: _number(getattr(model, name)) for name in names}
    return Deployed(
        {name: count for name, count in parameters.items() if count},
        size,
        {name: int(counts[f"model.{name}"]) for name in names if counts[f"model.{name}"]},
    )


def measure_training(cfg: CfgNode) -> Training:
    """Build the model in training, and run one step forward on random images.

    Raises:
        FileNotFoundError: the training set is not here.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TIMM.PRETRAINED = ""
    model = Trainer.build_model(cfg).train()
    if is_second_stage(model):
        freeze(model)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    size = image_size(cfg)
    with EventStorage(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        # Named, for what is kept to stay where it is until all of it is.
        losses = model(training_inputs(cfg, size, IMAGES))
        activations = sum(n for place, n in kept.items() if place not in weights)
        del losses
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = 1 + STATE.get(cfg.SOLVER.OPTIMIZER, 2)
    total = _number(model)
    return Training(
        parameters=total,
        trained=trained,
        weights=BYTES * (total + trained * state),
        activations=activations // IMAGES,
        size=size,
    )


def training_inputs(cfg: CfgNode, size: tuple[int, int], number: int) -> list[dict]:
    """Random images with random labels, in the form that the config's model trains on.

    Args:
        cfg: a complete config.
        size: (H, W).
        number: of images.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    inputs = [{"image": image} for image in random_images([size] * number, device)]
    generator = torch.Generator().manual_seed(0)
    # Region Rebalance refuses regions of classes that the training set does not have.
    classes = torch.from_numpy(get_class_stats(cfg.DATASETS.TRAIN).image_count).nonzero()[:, 0]
    for item in inputs:
        item |= {"height": size[0], "width": size[1]}
        if cfg.MODEL.META_ARCHITECTURE.endswith("ImageClassifier"):
            item["label"] = int(classes[0])
        elif cfg.MODEL.META_ARCHITECTURE.endswith("SemanticSegmentor"):
            drawn = torch.randint(len(classes), size, generator=generator)
            item["sem_seg"] = classes[drawn].to(device)
        else:
            item["instances"] = _objects(classes, size, generator)
    return inputs


def _objects(classes: Tensor, size: tuple[int, int], generator: torch.Generator) -> Instances:
    """Boxes of a quarter to a half of each side, all of their pixels in the masks."""
    height, width = size
    scale = torch.tensor([width, height] * 2)
    corners = torch.rand(OBJECTS, 2, generator=generator) / 2
    sides = 0.25 + torch.rand(OBJECTS, 2, generator=generator) / 4
    boxes = torch.cat([corners, corners + sides], dim=1) * scale
    instances = Instances(size)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = classes[torch.randint(len(classes), (OBJECTS,), generator=generator)]
    masks = torch.zeros(OBJECTS, *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    instances.gt_masks = BitMasks(masks)
    return instances


def _number(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
