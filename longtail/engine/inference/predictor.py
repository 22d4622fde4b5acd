# SPDX-License-Identifier: Apache-2.0
"""A trained model as a function of images.

Shapes: K classes, (H, W) size of an image as it is shown.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances, ROIMasks
from PIL import Image

from longtail.data.mappers.pixels import as_pixels, build_pixel_mapper
from longtail.engine.inference.build import build_inference
from longtail.engine.inference.class_maps import ClassMapInference, grouped_classes, grouped_scores
from longtail.engine.inference.results import (
    ClassificationPrediction,
    DetectionPrediction,
    Prediction,
    SemSegPrediction,
)
from longtail.engine.inference.sliding_window import unchanged
from longtail.engine.inference.trained import (
    TrainedModel,
    load_trained,
    model_kind,
    model_metadata,
    trained_config,
)
from longtail.evaluation.metrics import check_finite
from longtail.evaluation.roi_masks import MASK_THRESHOLD
from longtail.visualization.tasks import IMAGES, OBJECTS, SEM_SEG, Task, task_of

# A path, a PIL image, or an array (H, W, 3) or (H, W) of uint8.
ImageLike = str | os.PathLike | Image.Image | np.ndarray


class Predictor:
    """A trained model of any of the tasks, as it is tested, for images of one's own.

    ::

        predict = longtail.Predictor("output/my_run")
        predict("street.jpg").labels                      # semantic segmentation
        predict(cv2.imread("a.jpg"), channels="BGR").instances    # a detector
        predict([Image.open("a.png"), "b.png"])[1].top(3) # image classification

    Windows (TEST.SEM_SEG.MODE slide) and post hoc methods are those of the config. Multi-scale
    testing (TEST.AUG) is for evaluation alone.

    Attributes:
        cfg: the config for inference, which detectron2's ``DefaultPredictor`` takes, too.
        model: the model, in evaluation mode.
        kind: ``"sem_seg"``, ``"objects"`` or ``"classification"``.
        class_names: K names.
        colors: K colours (red, green, blue), 0..255.
        metadata: both as detectron2's ``Visualizer`` takes them.
    """

    def __init__(
        self,
        run_or_config: str | os.PathLike | CfgNode,
        weights: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        dataset: str = "",
        imports: Sequence[str] = (),
    ) -> None:
        """Build the model and load its weights.

        Args:
            run_or_config: the folder of a run (OUTPUT_DIR), a config file, the name of a packaged
                config, a model that comes with the package (``longtail://NAME``, see
                docs/models.md), or a config.
            weights: by default the newest checkpoint of the folder, or MODEL.WEIGHTS of a config.
            device: such as ``"cpu"`` or ``"cuda:1"``; by default MODEL.DEVICE, or the CPU where
                there is no GPU.
            dataset: a registered data set whose classes the model has. Weights that were trained
                here carry the names of their classes; others need it.
            imports: modules of one's own that the model needs, see IMPORTS.

        Raises:
            FileNotFoundError: there is no such folder, config or checkpoint.
            ValueError: config, weights and data set do not belong together; or no such device.
        """
        cfg = trained_config(run_or_config, weights, imports)
        if device is not None:
            cfg.defrost()
            cfg.MODEL.DEVICE = _checked_device(device)
            cfg.freeze()
        self._open(load_trained(cfg), dataset)

    def _open(self, trained: TrainedModel, dataset: str) -> None:
        self.cfg, self.model = trained.cfg, trained.model
        self.kind = model_kind(self.cfg)
        self.metadata = model_metadata(trained, dataset)
        task = task_of(self.kind, self.metadata)
        self.class_names: list[str] = task.class_names
        self.colors = task.colors
        self._inference = build_inference(self.cfg, self.model, class_maps=True, unpasted=True)
        self._map = build_pixel_mapper(self.cfg, self.kind)

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        channels: str | None = None,
        scores: bool = True,
        batch_size: int = 8,
    ) -> Any:
        """Predict an image, or a list of them.

        Args:
            images: a path, a PIL image or an array (H, W, 3) or grey (H, W) of uint8; or a list.
            channels: order of the channels of coloured arrays, ``"RGB"`` or ``"BGR"``, which an
                array itself does not say; others need none.
            scores: whether semantic segmentation gives the probability of each pixel's class.
            batch_size: so many of a list are read at a time; those of one size run together.

        Returns:
            A :class:`~.results.SemSegPrediction`, :class:`~.results.DetectionPrediction` or
            :class:`~.results.ClassificationPrediction`; for a list a list of them.

        Raises:
            FileNotFoundError: an image is missing.
            ValueError: an image cannot be read as it is, or the model gives NaN.
            TypeError: an image is something else.
        """
        if not isinstance(images, (list, tuple)):
            return self([images], channels=channels, scores=scores)[0]
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        found: list[Prediction] = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            names = [_name(image, start + place) for place, image in enumerate(batch)]
            pixels = [as_pixels(*pair, channels) for pair in zip(batch, names, strict=True)]
            outputs = self.outputs(pixels, names, scores=scores)
            found += [self._result(output) for output in outputs]
        return found

    @torch.no_grad()
    def outputs(
        self, pixels: Sequence[np.ndarray], names: Sequence[str], *, scores: bool = False
    ) -> list[dict[str, Any]]:
        """What the model gives, before it becomes a result.

        Args:
            pixels: (H, W, 3) uint8, RGB.
            names: of the images, for messages.
            scores: as of a call.

        Returns:
            For each image: of semantic segmentation ``sem_seg``, (H, W) classes, and perhaps
            ``scores``, (H, W); of a detector ``instances``, whose masks are ``ROIMasks``; of image
            classification ``scores``, (K,).

        Raises:
            ValueError: as of a call.
        """
        inputs = [self._map(*pair) for pair in zip(pixels, names, strict=True)]
        outputs: list[dict[str, Any]] = [{}] * len(inputs)
        if isinstance(self._inference, ClassMapInference):
            self._inference.scores = scores
        for group in _of_one_size(inputs):
            some = self._inference([inputs[index] for index in group])
            for index, output in zip(group, some, strict=True):
                outputs[index] = self._checked(output, names[index], scores)
        return outputs

    def task(self, min_score: float = 0.0) -> Task:
        """What draws the model's :meth:`outputs`.

        Args:
            min_score: objects with lower scores are not drawn.
        """
        return task_of(self.kind, self.metadata, min_score)

    def _checked(self, output: dict[str, Any], name: str, scores: bool) -> dict[str, Any]:
        if self.kind == IMAGES:
            check_finite(output["scores"], f"{name}: scores")
        if self.kind != SEM_SEG or output["sem_seg"].dim() == 2:
            return output
        # A segmentor that is not ours gives logits.
        logits = output["sem_seg"]
        if not scores:
            return {"sem_seg": grouped_classes(logits, unchanged, name)}
        classes, probabilities = grouped_scores(logits, unchanged, name)
        return {"sem_seg": classes, "scores": probabilities}

    def _result(self, output: dict[str, Any]) -> Prediction:
        classes = {"class_names": self.class_names, "colors": self.colors}
        if self.kind == OBJECTS:
            return DetectionPrediction(instances=_pasted(output["instances"]), **classes)
        found = output.get("scores")
        found = None if found is None else found.float().cpu().numpy()
        if self.kind == IMAGES:
            return ClassificationPrediction(probabilities=found, **classes)
        labels = output["sem_seg"].cpu().numpy()
        return SemSegPrediction(labels=labels, scores=found, **classes)


def _checked_device(device: str | torch.device) -> str:
    try:
        torch.empty(0, device=device)
    # torch raises several kinds.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"there is no device {str(device)!r} here ({reason:.100}): give another, such as 'cpu'"
        ) from None
    return str(device)


def _name(image: ImageLike, place: int) -> str:
    if isinstance(image, (str, Path)):
        return str(image)
    return getattr(image, "filename", "") or f"image {place}"


def _of_one_size(inputs: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
    """The places of images of one size: together they are not padded."""
    groups: dict[tuple, list[int]] = {}
    for place, item in enumerate(inputs):
        groups.setdefault(tuple(item["image"].shape), []).append(place)
    yield from groups.values()


def _pasted(instances: Instances) -> Instances:
    """On the CPU, with masks at the size of the image as detectron2 gives them."""
    if instances.has("pred_masks") and isinstance(instances.pred_masks, ROIMasks):
        boxes, size = instances.pred_boxes, instances.image_size
        masks = instances.pred_masks.to_bitmasks(boxes, *size, MASK_THRESHOLD).tensor
        instances.pred_masks = masks
    return instances.to("cpu")
