# SPDX-License-Identifier: Apache-2.0
"""A folder with everything that a program needs which does not have this project."""

import os
from typing import Any

from detectron2.config import CfgNode

from longtail.engine.checkpoint import CLASS_NAMES
from longtail.engine.deployment.graphs import (
    INPUT,
    OUTPUT,
    Written,
    write_exported_program,
    write_onnx,
)
from longtail.engine.inference.trained import TrainedModel, model_kind, model_metadata
from longtail.engine.weights_file import write_weights
from longtail.utils.io import atomic_write, write_json
from longtail.visualization.tasks import IMAGES, task_of

# Its file of the graph is in model.json; what runs it, below.
RUNNER = '''\
"""Predict images: python run.py IMAGE... (needs {package}, NumPy and Pillow alone)."""
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image, ImageOps
{load}
HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
RUN = load(str(HERE / ABOUT["graph"]))

def resize(image, w, h):  # between the nearest four pixels, or over all that are covered
    bilinear = Image.Resampling.BILINEAR
    if ABOUT["input"]["filter"] == "pillow":
        return image.resize((w, h), bilinear)
    scale = (image.size[0] / w, 0, 0, 0, image.size[1] / h, 0)
    return image.transform((w, h), Image.Transform.AFFINE, scale, bilinear)

def prepare(image):  # a PIL image to (1, 3, h, w) uint8
    w, h = image.size
    p = ABOUT["input"]
    if p["size"]:
        image = resize(image, *p["size"][::-1])
    elif p["shorter_side"]:
        s = p["shorter_side"] / min(w, h)
        s = min(s, p["longer_side"] / max(w, h)) if p["longer_side"] else s
        image = resize(image, int(w * s + 0.5), int(h * s + 0.5))
    if p["center_crop"]:
        left, top = ((side - p["center_crop"]) // 2 for side in image.size)
        image = image.crop((left, top, left + p["center_crop"], top + p["center_crop"]))
    pixels = np.asarray(image)[..., :: -1 if p["channels"] == "BGR" else 1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])

def predict(path):  # label map (H, W), or the probabilities (K,)
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    output = RUN(prepare(image))[0]
    if ABOUT["task"] != "sem_seg":
        return output
    grow = lambda z: np.asarray(Image.fromarray(z).resize(image.size, Image.Resampling.BILINEAR))
    return np.stack([grow(z) for z in output]).argmax(0).astype(np.uint8)

if __name__ == "__main__":
    names = ABOUT["class_names"]
    for path in sys.argv[1:]:
        result = predict(path)
        if result.ndim == 1:
            best = (-result).argsort()[:5]
            print(path, *(f"{{names[k]}} {{result[k]:.4f}}" for k in best), sep="\\t")
        else:
            image = Image.fromarray(result)
            image.putpalette(np.asarray(ABOUT["colors"], np.uint8).tobytes())
            image.save(Path(path).stem + "_labels.png")
'''
LOAD_TORCH = """\
import torch

def load(path):
    graph = torch.export.load(path).module()
    return lambda images: graph(torch.from_numpy(images)).detach().numpy()
"""
LOAD_ONNX = f'''\
import onnxruntime

def load(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {{"{INPUT}": images}})[0]
'''


def write_bundle(folder: str, trained: TrainedModel, size: int, *, onnx: bool) -> Written:
    """Write graph, weights, config, description and a program that runs the graph.

    Args:
        folder: made if it is missing; files of these names are replaced.
        trained: a segmentor or an image classifier, on a CPU.
        size: h = w of the images that the graph is made with.
        onnx: ONNX, or torch.export's program.

    Returns:
        What :mod:`.graphs` says of the graph.

    Raises:
        ValueError: the model is in windows, cannot be exported, or has no names of classes.
        ImportError: a package of the extra ``onnx`` is missing.
    """
    cfg = trained.cfg
    if cfg.TEST.SEM_SEG.MODE == "slide":
        raise ValueError(
            "a bundle does not run windows (TEST.SEM_SEG.MODE slide): set it to whole, or export "
            "the graph alone (--format onnx)"
        )
    metadata = model_metadata(trained)
    task = task_of(model_kind(cfg), metadata)
    graph = "model.onnx" if onnx else "model.pt2"
    write = write_onnx if onnx else write_exported_program
    written = write(os.path.join(folder, graph), trained.model, size)
    with atomic_write(os.path.join(folder, "model.safetensors"), "wb") as file:
        notes = {CLASS_NAMES: task.class_names}
        write_weights(file, "model.safetensors", trained.model.state_dict(), notes)
    with atomic_write(os.path.join(folder, "config.yaml")) as file:
        file.write(_portable(cfg).dump())
    about = {
        "task": task.kind,
        "class_names": task.class_names,
        "colors": [list(color) for color in task.colors],
        "graph": graph,
        "input": {
            "name": INPUT,
            "type": "uint8",
            "layout": "(images, 3, height, width)",
            **preprocessing(cfg, task.kind, written),
        },
        "inside_the_graph": {"mean": list(cfg.MODEL.PIXEL_MEAN), "std": list(cfg.MODEL.PIXEL_STD)},
        "output": {"name": OUTPUT, "meaning": _meaning(task.kind)},
        "largest_relative_difference": written.difference,
    }
    write_json(os.path.join(folder, "model.json"), about)
    package, load = ("onnxruntime", LOAD_ONNX) if onnx else ("torch", LOAD_TORCH)
    with atomic_write(os.path.join(folder, "run.py")) as file:
        file.write(RUNNER.format(package=package, load=load))
    return written


def preprocessing(cfg: CfgNode, kind: str, written: Written) -> dict[str, Any]:
    """What an image goes through before the graph.

    Args:
        cfg: read for INPUT.
        kind: of the model.
        written: the graph.

    Returns:
        ``channels``; ``shorter_side`` and ``longer_side``, bounds that an image is resized to with
        its sides' ratio, 0 for none; ``center_crop``, the side of a square, 0 for none; ``filter``,
        one of INPUT.RESIZE_FILTER; ``size``, (h, w) of a graph that takes no other, which an image
        is stretched to, otherwise None.
    """
    if kind == IMAGES:
        options = cfg.INPUT.CLASSIFICATION
        shorter = 0 if options.PAD else options.TEST_RESIZE
        sides = {"shorter_side": shorter, "longer_side": 0, "center_crop": options.SIZE}
        size = None
    else:
        sides = {"shorter_side": cfg.INPUT.MIN_SIZE_TEST, "longer_side": cfg.INPUT.MAX_SIZE_TEST}
        sides["center_crop"] = 0
        size = None if written.any_size else [written.size, written.size]
    sides["filter"] = "pillow" if kind == IMAGES else cfg.INPUT.RESIZE_FILTER
    return {"channels": cfg.INPUT.FORMAT, "interpolation": "bilinear", **sides, "size": size}


def _meaning(kind: str) -> str:
    if kind == IMAGES:
        return "(images, classes) probabilities"
    return "(images, classes, height, width) logits, the largest is the class of a pixel"


def _portable(cfg: CfgNode) -> CfgNode:
    """Without paths of this machine, and without what the weights hold already."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = "model.safetensors"
    cfg.OUTPUT_DIR = "output"
    cfg.MODEL.POST_HOC.METHOD = cfg.MODEL.POST_HOC.FILE = ""
    return cfg
