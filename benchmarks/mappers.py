# SPDX-License-Identifier: Apache-2.0
"""Time of our mappers beside mmsegmentation's and torchvision's pipelines, on one core.

    peers/bin/python benchmarks/mappers.py

How to make the environment ``peers`` is said in mmseg_peers.py. Each of the pipelines reads the
files of one image and makes a training example of it, by the same recipe, one after the other in
every round; CPU time, medians. Segmentation: ADE20K's recipe for 512 x 512 crops, with
mmsegmentation's steps up to the packed tensors. Classification: ImageNet's, for 224 x 224 crops,
with torchvision's second transforms on the tensor that torchvision decodes. The files are
generated; a photograph's compress alike. "Reduced" is INPUT.REDUCED_DECODING, whose pixels differ:
by how many grey levels in the mean is beside it, with the same windows, without flips and colours.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import save_result
from mmseg_peers import import_mmseg

from longtail.config import load_config
from longtail.data.mappers import ClassificationDatasetMapper, SemSegDatasetMapper

SIZES = {"683 x 512": (512, 683), "2000 x 1500": (1500, 2000)}
CLASSES = 150
REDUCED = ["INPUT.REDUCED_DECODING", True]
FILTERS = {kind: ["INPUT.RESIZE_FILTER", kind] for kind in ("opencv", "pillow")}


def write_scene(folder: Path, size: tuple[int, int]) -> tuple[str, str]:
    """Write smooth colours with noise as a JPEG, and labels in patches as a PNG."""
    generator = np.random.default_rng(0)
    cells = (size[0] // 16, size[1] // 16)
    colours = generator.integers(0, 256, (*cells, 3), dtype=np.uint8)
    image = cv2.resize(colours, size[::-1], interpolation=cv2.INTER_CUBIC).astype(int)
    image = (image + generator.integers(-5, 6, image.shape)).clip(0, 255).astype(np.uint8)
    patches = generator.integers(0, CLASSES, (size[0] // 64 + 1, size[1] // 64 + 1), dtype=np.uint8)
    labels = cv2.resize(patches, size[::-1], interpolation=cv2.INTER_NEAREST)
    files = str(folder / "image.jpg"), str(folder / "labels.png")
    cv2.imwrite(files[0], image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    cv2.imwrite(files[1], labels)
    return files


def mmsegmentation(files: tuple[str, str]) -> Callable[[], Any]:
    """Its training pipeline for ADE20K."""
    import_mmseg()
    import mmseg.datasets.transforms  # noqa: F401  (registers the steps)
    from mmcv.transforms import Compose

    pipeline = Compose(
        [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations"},
            {
                "type": "RandomResize",
                "scale": (2048, 512),
                "ratio_range": (0.5, 2.0),
                "keep_ratio": True,
            },
            {"type": "RandomCrop", "crop_size": (512, 512), "cat_max_ratio": 0.75},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PhotoMetricDistortion"},
            {"type": "PackSegInputs"},
        ]
    )
    record = {"img_path": files[0], "seg_map_path": files[1], "seg_fields": []}
    return lambda: pipeline({**record, "seg_fields": [], "reduce_zero_label": False})


def torchvision_tensors(file: str) -> Callable[[], Any]:
    """The decoder of torchvision and its transforms on tensors."""
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    steps = v2.Compose(
        [
            v2.RandomResizedCrop(224, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        ]
    )
    return lambda: steps(decode_image(file, mode=ImageReadMode.RGB))


def ours(files: tuple[str, str], keys: list) -> Callable[[], Any]:
    """The mapper of a config, with other keys."""
    cfg = load_config("ADE20K/deeplabv3plus_R_50c_160k.yaml", keys)
    mapper = SemSegDatasetMapper(cfg, True)
    return lambda: mapper({"file_name": files[0], "sem_seg_file_name": files[1]})


def ours_of_images(files: tuple[str, str], keys: list) -> Callable[[], Any]:
    """The mapper of image classification."""
    mapper = ClassificationDatasetMapper(load_config("ImageNet-LT/R_50.yaml", keys), True)
    return lambda: mapper({"file_name": files[0], "label": 0})


def difference(build: Callable, files: tuple[str, str], keys: list, rounds: int) -> float:
    """Mean absolute difference of pixels with and without REDUCED_DECODING, in grey levels."""
    plain = ["INPUT.RANDOM_FLIP", "none", "INPUT.PHOTOMETRIC", False]
    plain += ["INPUT.CLASSIFICATION.COLOR_JITTER", 0.0]
    found = []
    for number in range(rounds):
        images = []
        for more in ([], REDUCED):
            step = build(files, [*plain, *keys, *more])
            seed(number)
            images.append(step()["image"].float())
        found.append((images[0] - images[1]).abs().mean().item())
    return statistics.fmean(found)


def seed(number: int) -> None:
    """All draw the same scales, at least."""
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


def measure(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of CPU time, and how many times faster ours are than the first."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            seed(number)
            start = time.process_time()
            step()
            if number:
                times[name].append(1000 * (time.process_time() - start))
    figures = {f"{name} (ms)": statistics.median(found) for name, found in times.items()}
    peer, *others = times
    for name in others:
        ratios = [a / b for a, b in zip(times[peer], times[name], strict=True)]
        figures[f"{name}, times faster"] = sum(times[peer]) / sum(times[name])
        figures[f"{name}, times faster, median of rounds"] = statistics.median(ratios)
    return figures


def main() -> None:
    """Measure, print a table, write ``results/mappers.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    figures: dict[str, Any] = {}
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            files = write_scene(Path(folder), size)
            steps = {
                "mmsegmentation": mmsegmentation(files),
                **{kind: ours(files, keys) for kind, keys in FILTERS.items()},
                **{
                    f"{kind}, reduced": ours(files, keys + REDUCED)
                    for kind, keys in FILTERS.items()
                },
            }
            figures[f"segmentation, {name}"] = found = measure(steps, rounds)
            for kind, keys in FILTERS.items():
                found[f"{kind}, reduced, difference"] = difference(ours, files, keys, rounds)
            steps = {
                "torchvision": torchvision_tensors(files[0]),
                "ours": ours_of_images(files, []),
                "ours, reduced": ours_of_images(files, REDUCED),
            }
            figures[f"classification, {name}"] = found = measure(steps, rounds)
            found["ours, reduced, difference"] = difference(ours_of_images, files, [], rounds)
    for name, found in figures.items():
        print(f"\n{name}")
        for key, value in found.items():
            print(f"  {key:44s} {value:8.2f}")
    save_result("mappers", {"rounds": rounds, **figures})


if __name__ == "__main__":
    main()
