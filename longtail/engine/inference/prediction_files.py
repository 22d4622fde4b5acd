# SPDX-License-Identifier: Apache-2.0
"""The files of predictions: one or more an image, each whole or absent, and what joins them.

Shapes: K classes, (H, W) size of an image as it is shown.
"""

import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from longtail.data.formats.sources import Source
from longtail.engine.inference.predictor import Predictor
from longtail.utils.io import atomic_write, write_json
from longtail.utils.text import read_text, write_csv
from longtail.visualization.predictions import Objects, objects_of_output
from longtail.visualization.tasks import IMAGES, OBJECTS, SEM_SEG

# What was predicted by which model: predictions of two do not mix in a folder.
RECORD = "predictions.json"
# A file an image in these folders; what joins all images is beside them.
LABELS = "labels"
PARTS = "images"
SCORES = "scores"
OVERLAYS = "overlays"
JOINED = {OBJECTS: "detections.json", IMAGES: "predictions.csv"}
# More classes than that do not fit into a palette.
PALETTE = 256


@dataclass(frozen=True)
class Wanted:
    """What is written of each image.

    Attributes:
        output: the folder.
        kind: of the model.
        scores: probabilities as ``scores/NAME.npy``.
        overlays: pictures as ``overlays/NAME.png``.
        min_score: objects with lower scores are not drawn.
        top: classes of an image that the table names.
    """

    output: str
    kind: str
    scores: bool = False
    overlays: bool = False
    min_score: float = 0.5
    top: int = 5

    def path(self, folder: str, source: Source) -> Path:
        """The file of an image in one of the folders."""
        ending = {PARTS: ".json", SCORES: ".npy"}.get(folder, ".png")
        return Path(self.output, folder, source.name + ending)

    def main(self, source: Source) -> Path:
        """The file that is written last, and says that an image is done."""
        return self.path(LABELS if self.kind == SEM_SEG else PARTS, source)

    def is_done(self, source: Source) -> bool:
        """Whether all files of an image are there."""
        extra = [SCORES] * self.scores + [OVERLAYS] * self.overlays
        return all(p.is_file() for p in (self.main(source), *(self.path(e, source) for e in extra)))


def write_image(
    wanted: Wanted, predict: Predictor, source: Source, pixels: np.ndarray, output: dict[str, Any]
) -> None:
    """Write what is wanted of one image.

    Args:
        wanted: says what.
        predict: the model.
        source: the image.
        pixels: (H, W, 3) uint8, RGB.
        output: of the model's ``outputs``.

    Raises:
        OSError: a file cannot be written.
    """
    if wanted.overlays:
        task = predict.task(wanted.min_score)
        drawn = task.prediction(output, {"file_name": source.file_name})
        picture = task.picture(pixels, None, {"prediction": drawn})
        _write_png(wanted.path(OVERLAYS, source), Image.fromarray(picture))
    if wanted.scores:
        scores = output["scores"].float().cpu().numpy()
        with atomic_write(wanted.path(SCORES, source), "wb") as file:
            np.save(file, scores.astype(np.float16 if wanted.kind == SEM_SEG else np.float32))
    main = wanted.main(source)
    if wanted.kind == SEM_SEG:
        _write_png(main, label_image(output["sem_seg"].cpu().numpy(), predict.colors))
        return
    content = {"file_name": source.file_name, "height": pixels.shape[0], "width": pixels.shape[1]}
    if wanted.kind == OBJECTS:
        objects = objects_of_output(output["instances"], 0.0, source.file_name)
        write_json(main, {**content, "detections": list(detections(objects))})
    else:
        scores = output["scores"].float().cpu().numpy()
        order = np.argsort(-scores, kind="stable")[: wanted.top].tolist()
        names = [predict.class_names[k] for k in order]
        write_json(main, {**content, "classes": names, "scores": [float(scores[k]) for k in order]})


def label_image(labels: np.ndarray, colors: Sequence[Sequence[int]]) -> Image.Image:
    """A label map as an image: its values are the classes, a palette has their colours.

    Args:
        labels: (H, W) integers, 0..K-1.
        colors: K colours.

    Returns:
        Of up to 256 classes with a palette, of more grey with 16 bits.
    """
    if len(colors) > PALETTE:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette(np.asarray(colors, np.uint8).tobytes())
    return image


def detections(objects: Objects) -> Iterator[dict[str, Any]]:
    """Objects in COCO's results format, but for the image; categories are 1 to K.

    Args:
        objects: of an image, the best first.
    """
    for index in range(len(objects)):
        x0, y0, x1, y1 = objects.boxes[index].tolist()
        entry = {
            "category_id": int(objects.classes[index]) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(objects.scores[index]),
        }
        if objects.masks is not None:
            rle = objects.masks[index]
            counts = rle["counts"].decode("ascii")
            entry["segmentation"] = {"size": list(rle["size"]), "counts": counts}
        yield entry


def join(wanted: Wanted, class_names: Sequence[str], sources: Sequence[Source]) -> str:
    """Join the files of all images into one, in their order.

    Args:
        wanted: what was written.
        class_names: K names.
        sources: the images; those that could not be read are left out.

    Returns:
        The path of the file, or of the folder of label maps.

    Raises:
        ValueError: a file of an image was changed, and is not JSON any more.
    """
    if wanted.kind == SEM_SEG:
        return os.path.join(wanted.output, LABELS)
    path = os.path.join(wanted.output, JOINED[wanted.kind])
    done = [source for source in sources if wanted.main(source).is_file()]
    contents = (_read_part(wanted.main(source)) for source in done)
    if wanted.kind == OBJECTS:
        write_json(path, coco_document(contents, class_names))
        return path
    numbers = range(1, min(wanted.top, len(class_names)) + 1)
    columns = ["file_name", *(f"{what}_{n}" for n in numbers for what in ("class", "probability"))]
    with atomic_write(path) as file:
        write_csv(file, columns, (_row(columns, content) for content in contents))
    return path


def _row(columns: Sequence[str], content: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(content["classes"], content["scores"], strict=True)
    values = [content["file_name"], *(value for pair in pairs for value in pair)]
    return dict(zip(columns, values, strict=True))


def coco_document(
    contents: Iterator[dict[str, Any]], class_names: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Detections in the form of a COCO data set, whose annotations have a score.

    Args:
        contents: of the images' files, in the order of the images.
        class_names: K names of the categories 1 to K.
    """
    images, annotations = [], []
    for number, content in enumerate(contents, start=1):
        size = {key: content[key] for key in ("file_name", "height", "width")}
        images.append({"id": number, **size})
        for entry in content["detections"]:
            rle = entry.get("segmentation")
            area = float(mask_util.area(rle)) if rle else entry["bbox"][2] * entry["bbox"][3]
            more = {"id": len(annotations) + 1, "image_id": number, "area": area, "iscrowd": 0}
            annotations.append({**more, **entry})
    categories = [{"id": k, "name": name} for k, name in enumerate(class_names, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _read_part(path: Path) -> dict[str, Any]:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it and predict again") from None


def check_record(output: str, record: dict[str, Any], *, overwrite: bool) -> None:
    """Compare a folder's predictions with what is about to be written, and say what that is.

    Args:
        output: the folder.
        record: what the predictions depend on.
        overwrite: they are all made again.

    Raises:
        ValueError: the folder holds predictions that depend on something else.
    """
    path = Path(output, RECORD)
    if path.is_file() and not overwrite:
        there = _read_part(path)
        changed = [key for key, value in record.items() if there.get(key) != value]
        if changed:
            raise ValueError(
                f"{output} holds predictions with another {changed[0]} "
                f"({there.get(changed[0])!s:.60}, now {record[changed[0]]!s:.60}): name another "
                "--output, or make them again with --overwrite"
            )
    write_json(path, record)


def check_record_is_here(output: str) -> None:
    """Check that this process sees the folder that the main process has begun.

    Args:
        output: the folder.

    Raises:
        ValueError: it does not.
    """
    if not Path(output, RECORD).is_file():
        raise ValueError(
            f"{socket.gethostname()} does not see {output} of the main process ({RECORD} is not "
            "there): name an --output that all machines share"
        )


def _write_png(path: Path, image: Image.Image) -> None:
    with atomic_write(path, "wb") as file:
        image.save(file, format="PNG")
