# SPDX-License-Identifier: Apache-2.0
"""What DisAlign's second stage saves in a training step of semantic segmentation: time and memory.

    taskset -c 0 python benchmarks/disalign_stage2_sem_seg.py

FCN and DeepLabV3+ on ResNet-50c with the 150 classes of ADE20K, on a CPU, random weights, two
images. Steps of the first stage and of the second are run in turn, so that what else the machine
does hits both alike; so are forward passes in testing with and without the calibration. Ratios are
of the medians over the repetitions.

The calibration's share of the inference is its own time over that of the whole forward pass, both
inside the same passes: a difference of two noisy totals could not show one percent. Memory is the
peak of a process that runs nothing but the step, less what it held with model and data (Linux's
/proc).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from branch_cost import make_batch
from common import ROOT, in_child, memory, save_result, start_memory
from detectron2.utils.events import EventStorage
from disalign_stage2 import seconds

from longtail.config import load_config
from longtail.engine import Trainer
from longtail.engine.training.stages import freeze, is_second_stage

MODELS = {"FCN": "fcn_R_50c_160k", "DeepLabV3+": "deeplabv3plus_R_50c_160k"}
# The ends of the configs' names.
STAGES = {"stage 1 step": "", "stage 2 step": "_disalign"}
SPEED_TARGET, MEMORY_TARGET, INFERENCE_TARGET = 2.5, 0.4, 1.0


def build(stem: str) -> torch.nn.Module:
    """The model of a config of ADE20K on the CPU, as it is trained."""
    options = ["MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "MODEL.DEVICE", "cpu"]
    torch.manual_seed(0)
    model = Trainer.build_model(load_config(str(ROOT / f"configs/ADE20K/{stem}.yaml"), options))
    if is_second_stage(model):
        freeze(model)
    return model.train()


def training_step(model: torch.nn.Module, batch: list[dict]) -> Callable[[], None]:
    """A function that does one step."""
    learned = [p for p in model.parameters() if p.requires_grad]
    # A rate that keeps the random weights, and all values finite.
    optimizer = torch.optim.SGD(learned, lr=1e-9, momentum=0.9)

    def step() -> None:
        with EventStorage():
            loss = sum(model(batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def step_times(stem: str, batch: list[dict], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Wall and processor seconds of both stages' steps, in turn; the first round warms up."""
    steps = {kind: training_step(build(stem + end), batch) for kind, end in STAGES.items()}
    times: dict[str, dict[str, list[float]]] = {kind: {"wall": [], "CPU": []} for kind in steps}
    for repeat in range(repeats + 1):
        for kind, step in steps.items():
            wall, cpu = seconds(step)
            print(f"{stem} {repeat}: {kind} {wall:.2f} s, {cpu:.2f} s CPU", flush=True)
            if repeat:
                times[kind]["wall"].append(wall)
                times[kind]["CPU"].append(cpu)
    return times


@torch.no_grad()
def inference_times(stem: str, batch: list[dict], repeats: int) -> dict[str, list[float]]:
    """Seconds of the calibration, and of the forward pass that it is in; the first warms up."""
    model = build(f"{stem}_disalign").eval()
    calibration = model.sem_seg_head.calibration
    parts: list[float] = []
    _time_calls(calibration, "calibrate_map", parts)
    times: dict[str, list[float]] = {"calibration": [], "forward pass": []}
    for repeat in range(repeats + 1):
        parts.clear()
        total, _ = seconds(lambda: model(batch))
        if repeat:
            times["calibration"].append(sum(parts))
            times["forward pass"].append(total)
    return times


def _time_calls(module: torch.nn.Module, name: str, parts: list[float]) -> None:
    method = getattr(module, name)

    def timed(*arguments: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        result = method(*arguments)
        parts.append(time.perf_counter() - start)
        return result

    setattr(module, name, timed)


def peak_memory(stem: str, images: int, size: int) -> float:
    """MB that steps take beyond model and data, in a process of their own."""
    torch.set_num_threads(1)
    step = training_step(build(stem), make_batch(images, size, 150))
    before = start_memory()
    for _ in range(2):
        step()
    return memory("VmHWM") - before


def compare(name: str, images: int, size: int, repeats: int) -> dict:
    """All figures of a model, printed as they come."""
    stem, batch = MODELS[name], make_batch(images, size, 150)
    steps = step_times(stem, batch, repeats)
    first, second = (steps[kind] for kind in STAGES)
    speed = {
        f"of medians, {clock}": statistics.median(first[clock]) / statistics.median(second[clock])
        for clock in ("wall", "CPU")
    }
    tested = inference_times(stem, batch, repeats)
    pairs = zip(tested["calibration"], tested["forward pass"], strict=True)
    share = 100 * statistics.median(part / (whole - part) for part, whole in pairs)
    peaks = {kind: in_child(peak_memory, stem + end, images, size) for kind, end in STAGES.items()}
    ratio = peaks["stage 2 step"] / peaks["stage 1 step"]
    print(f"{name}: stage 1 step / stage 2 step {speed} (target at least {SPEED_TARGET})")
    print(
        f"memory {ratio:.2f} (at most {MEMORY_TARGET}), in testing {share:.2f} % more", flush=True
    )
    return {
        "stage 1 step / stage 2 step": {**speed, "target": f">= {SPEED_TARGET}"},
        "memory, stage 2 step / stage 1 step": {
            "ratio": ratio,
            "target": f"<= {MEMORY_TARGET}",
            "peak beyond model and data, MB": peaks,
        },
        "calibration, percent of the inference without it": {
            "median": share,
            "target": f"<= {INFERENCE_TARGET}",
        },
        "seconds": {**steps, "inference": tested},
    }


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = (arguments.images, arguments.size, arguments.repeats)
    figures = {name: compare(name, *options) for name in MODELS}
    save_result(
        "disalign_stage2_sem_seg",
        {
            "models": "on ResNet-50c, 150 classes",
            "images": f"{arguments.images} of {arguments.size} x {arguments.size}",
            "torch threads": torch.get_num_threads(),
            "repetitions": arguments.repeats,
            **figures,
        },
    )


if __name__ == "__main__":
    main()
