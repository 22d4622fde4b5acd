# SPDX-License-Identifier: Apache-2.0
"""What DisAlign's second stage saves in a training step: time and memory.

    python benchmarks/disalign_stage2.py

Mask R-CNN R50-FPN for the 1203 classes of LVIS v1, on a GPU if there is one, random weights, two
images, 512 RoIs in each, 256 foreground RoIs in all. Measured in turn, so that what else the
machine does hits all of them alike:

- normal step: forward, backward and optimizer of the first stage.
- requires_grad alone: the calibrated model in detectron2's own step, everything frozen but the
  calibration, all losses computed.
- stage 2 step: DisAlignRCNN.
- backbone forward: alone, without gradients.

Ratios are of the medians over the repetitions. Memory is the peak of a process that runs nothing
but the step, less what it held with model and data (Linux's /proc; on a GPU torch's count). Both
kinds of step are also run from a calibration that is no identity, on the same RoIs: the gradients
must agree.

A random RPN finds no objects. So that 128 RoIs of an image are foreground, as in a real training,
the last of its proposals are replaced by boxes around the objects, in every kind of step alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from branch_cost import now
from common import ROOT, in_child, memory, save_result, start_memory
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from disalign.functional import generalized_reweight

from longtail.config import load_config
from longtail.data.statistics.groups import frequency_groups
from longtail.engine import Trainer
from longtail.engine.training.stages import freeze

CONFIG = ROOT / "configs/LVISv1/mask_rcnn_R_50_FPN.yaml"
NORMAL, PLAIN = "normal step", "requires_grad alone"
STAGE2, BACKBONE = "stage 2 step", "backbone forward"
MODELS = {
    NORMAL: ("GeneralizedRCNN", "LongTailROIHeads"),
    PLAIN: ("GeneralizedRCNN", "DisAlignROIHeads"),
    STAGE2: ("DisAlignRCNN", "LongTailROIHeads"),
}
IMAGES = 2
FOREGROUND = 128  # an image
OBJECTS = 12  # an image, as in LVIS
CLASSES = 1203
# The two parts of a ratio, and what it is to be.
TARGETS = [
    (NORMAL, STAGE2, ">=", 5.0),
    (PLAIN, STAGE2, ">=", 2.0),
    (STAGE2, BACKBONE, "<=", 1.8),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEMORY_TARGET = 0.45
TOLERANCE = 1e-6


def build(kind: str) -> torch.nn.Module:
    """The model of one kind of step, frozen as the kind says, in training mode."""
    architecture, heads = MODELS[kind]
    overrides = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.ROI_HEADS.NAME", heads]
    # Statistics of LVIS itself are not needed: weights with its kind of tail are put in below.
    overrides += ["MODEL.WEIGHTS", "", "MODEL.DEVICE", DEVICE, "DATASETS.TRAIN", "()"]
    torch.manual_seed(0)
    model = Trainer.build_model(load_config(str(CONFIG), overrides)).train()
    for module in model.modules():
        if isinstance(module, BottleneckBlock):
            # A random residual network without batch statistics doubles its variance in each block.
            module.conv3.norm.weight.fill_(0.2)
    if kind != NORMAL:
        add_long_tail(model.roi_heads.box_predictor)
    if kind == PLAIN:
        model.requires_grad_(False)
        model.roi_heads.box_predictor.calibration.requires_grad_(True)
    elif kind == STAGE2:
        freeze(model)
    return model


def add_long_tail(predictor: torch.nn.Module) -> None:
    """Class weights and frequency groups of counts from 50,000 down to 1, in place."""
    counts = (5e4 / torch.arange(1, predictor.num_classes + 1) ** 1.5).clamp(min=1).round()
    predictor.class_weights[:-1] = generalized_reweight(counts, 0.8)
    predictor.class_groups = frequency_groups(counts.tolist())


def make_inputs(height: int, width: int) -> list[dict]:
    """Random images with objects, octagons of 64 to 200 pixels a side."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for _ in range(IMAGES):
        sides = 64 + 136 * torch.rand(OBJECTS, 2, generator=generator)
        free = torch.tensor([width, height]) - sides
        corners = free * torch.rand(OBJECTS, 2, generator=generator)
        boxes = torch.cat([corners, corners + sides], dim=1)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.randint(CLASSES, (OBJECTS,), generator=generator)
        instances.gt_masks = PolygonMasks([[octagon(*box)] for box in boxes.tolist()])
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances})
    return inputs


def plant_proposals(rpn: torch.nn.Module, inputs: list[dict]) -> None:
    """Let the RPN, in place, end its proposals with boxes shifted from the objects by up to 8 %."""
    generator = torch.Generator().manual_seed(1)
    planted = []
    for item in inputs:
        boxes = item["instances"].gt_boxes.tensor.repeat(2 * FOREGROUND // OBJECTS, 1)
        shift = 0.08 * (2 * torch.rand(len(boxes), 2, generator=generator) - 1)
        planted.append(boxes + ((boxes[:, 2:] - boxes[:, :2]) * shift).repeat(1, 2))
    predict = rpn.predict_proposals

    def predict_with_planted(*arguments: Any) -> list[Instances]:
        proposals = predict(*arguments)
        for of_image, boxes in zip(proposals, planted, strict=True):
            of_image.proposal_boxes.tensor[-len(boxes) :] = boxes
        return proposals

    rpn.predict_proposals = predict_with_planted


def octagon(x0: float, y0: float, x1: float, y1: float) -> torch.Tensor:
    """(16,) corners x, y, ..., whose bounding box is the box."""
    across = torch.tensor([0.3, 0.7, 1, 1, 0.7, 0.3, 0, 0], dtype=torch.float64)
    down = across.roll(2)
    return torch.stack([x0 + across * (x1 - x0), y0 + down * (y1 - y0)], dim=1).flatten().numpy()


def training_step(model: torch.nn.Module, inputs: list[dict]) -> Callable[[], None]:
    """A function that does one step; it raises a RuntimeError if foreground RoIs are missing."""
    learned = [p for p in model.parameters() if p.requires_grad]
    # A rate that keeps the random weights, and all values finite.
    optimizer = torch.optim.SGD(learned, lr=1e-9, momentum=0.9)

    def step() -> None:
        with EventStorage() as storage:
            loss = sum(model(inputs).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            foreground = storage.latest()["roi_head/num_fg_samples"][0]
        if foreground != FOREGROUND:
            raise RuntimeError(f"{foreground} foreground RoIs an image instead of {FOREGROUND}")

    return step


def seconds(function: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    wall, cpu = now(), time.process_time()
    function()
    return now() - wall, time.process_time() - cpu


def gradient_difference(plain: torch.nn.Module, stage2: torch.nn.Module, inputs: list) -> float:
    """Largest difference of the calibrations' gradients, relative to a tensor's largest entry."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in stage2.roi_heads.box_predictor.calibration.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise.to(parameter.device))
    plain.load_state_dict(stage2.state_dict())
    sample, sampled = plain.roi_heads.label_and_sample_proposals, []

    def record(*arguments: Any) -> list[Instances]:
        sampled.append(sample(*arguments))
        return sampled[0]

    plain.roi_heads.label_and_sample_proposals = record
    stage2.roi_heads.label_and_sample_proposals = lambda *_: sampled[0]
    gradients = []
    for model in (plain, stage2):
        model.zero_grad(set_to_none=True)
        with EventStorage():
            sum(model(inputs).values()).backward()
        learned = model.roi_heads.box_predictor.calibration.parameters()
        gradients.append([p.grad for p in learned])
        del model.roi_heads.label_and_sample_proposals
    pairs = list(zip(*gradients, strict=True))
    if any(not expected.abs().max() > 0 for expected, _ in pairs):
        raise RuntimeError("a gradient is zero: there is nothing to compare")
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def peak_memory(kind: str, height: int, width: int) -> float:
    """MB that steps of one kind take beyond model and data, in a process of their own."""
    torch.set_num_threads(2)
    model, inputs = build(kind), make_inputs(height, width)
    plant_proposals(model.proposal_generator, inputs)
    step = training_step(model, inputs)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = start_memory()
    for _ in range(2):
        step()
    if DEVICE == "cuda":
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    return memory("VmHWM") - before


def measure_times(
    models: dict[str, torch.nn.Module], inputs: list[dict], repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Wall and processor seconds of every kind of step, in turn; the first round warms up."""
    functions = {kind: training_step(model, inputs) for kind, model in models.items()}
    stage2 = models[STAGE2]
    images = stage2.preprocess_image(inputs).tensor

    @torch.no_grad()
    def backbone() -> None:
        stage2.backbone.eval()(images)

    functions[BACKBONE] = backbone
    times = {kind: {"wall": [], "CPU": []} for kind in functions}
    for repeat in range(repeats + 1):
        for kind, function in functions.items():
            wall, cpu = seconds(function)
            print(f"{repeat}: {kind} {wall:.2f} s, {cpu:.2f} s CPU", flush=True)
            if repeat:
                times[kind]["wall"].append(wall)
                times[kind]["CPU"].append(cpu)
    return times


def ratios(times: dict[str, dict[str, list[float]]]) -> dict[str, dict]:
    """The ratios that have a target: of medians, of minima, and of medians of processor time."""
    rows = {}
    for one, other, direction, target in TARGETS:
        a, b = times[one], times[other]
        row = {
            "of medians": statistics.median(a["wall"]) / statistics.median(b["wall"]),
            "of minima": min(a["wall"]) / min(b["wall"]),
            "of medians of CPU time": statistics.median(a["CPU"]) / statistics.median(b["CPU"]),
        }
        listed = ", ".join(f"{name} {value:.2f}" for name, value in row.items())
        print(f"{one} / {other}: {listed} (target {direction} {target})")
        rows[f"{one} / {other}"] = {**row, "target": f"{direction} {target}"}
    return rows


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--width", type=int, default=960)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--name", default="disalign_stage2", help="of the file with the results")
    arguments = parser.parse_args()
    size = (arguments.height, arguments.width)
    torch.set_num_threads(2)

    models = {kind: build(kind) for kind in MODELS}
    inputs = make_inputs(*size)
    for model in models.values():
        plant_proposals(model.proposal_generator, inputs)
    difference = gradient_difference(models[PLAIN], models[STAGE2], inputs)
    print(f"largest relative difference of gradients: {difference:.1e}")
    if difference > TOLERANCE:
        raise RuntimeError(f"the gradients differ by {difference:.1e}, more than {TOLERANCE}")
    times = measure_times(models, inputs, arguments.repeats)
    figures = ratios(times)
    del model, models
    peaks = {kind: in_child(peak_memory, kind, *size) for kind in (PLAIN, STAGE2)}
    share = peaks[STAGE2] / peaks[PLAIN]
    print(f"peak memory: {peaks}, ratio {share:.2f} (target at most {MEMORY_TARGET})")
    save_result(
        arguments.name,
        {
            "model": f"Mask R-CNN R50-FPN, {CLASSES} classes",
            "images": f"{IMAGES} of {size[0]} x {size[1]}",
            "RoIs": f"2 x 512, {IMAGES * FOREGROUND} of them foreground",
            "objects": f"{OBJECTS} an image",
            "torch threads": torch.get_num_threads(),
            "repetitions": arguments.repeats,
            "ratios": figures,
            "memory, stage 2 step / requires_grad alone": {
                "ratio": share,
                "target": f"<= {MEMORY_TARGET}",
                "peak beyond model and data, MB": peaks,
            },
            "gradients, largest relative difference": difference,
            "seconds": times,
        },
    )


if __name__ == "__main__":
    main()
