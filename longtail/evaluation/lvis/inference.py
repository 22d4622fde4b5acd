# SPDX-License-Identifier: Apache-2.0
"""Inference that leaves the masks of R-CNN models unpasted, for evaluators that encode them."""

from typing import Any

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances, ROIMasks
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class UnpastedInference(nn.Module):
    """A detectron2 R-CNN whose predictions keep their masks at the size of the RoIs.

    detectron2 pastes all masks into the image, before an evaluator can see that the federated
    rules never count most of them. Here ``pred_masks`` are ``ROIMasks``;
    :class:`~longtail.evaluation.LVISEvaluator` encodes those that it needs, as if detectron2 had
    pasted them, and :class:`~longtail.evaluation.coco.CocoEvaluator` all, see
    :mod:`longtail.evaluation.roi_masks`.
    Everything else about the predictions is detectron2's.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take the detector out of its wrapper.

        Args:
            model: a ``GeneralizedRCNN``, as it is or in ``DistributedDataParallel``.

        Raises:
            TypeError: another model.
        """
        super().__init__()
        model = model.module if isinstance(model, DistributedDataParallel) else model
        if not isinstance(model, GeneralizedRCNN):
            raise TypeError(
                f"UnpastedInference needs a GeneralizedRCNN, got {type(model).__name__}; evaluate "
                "other models as they are"
            )
        self.model = model
        # detectron2's inference restores the mode that it finds here.
        self.training = model.training

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Predict at the images' original sizes.

        Args:
            batched_inputs: detectron2's dicts with ``image`` and, if it was resized, the original
                ``height`` and ``width``.

        Returns:
            For each image ``{"instances": Instances}``.
        """
        predictions = self.model.inference(batched_inputs, do_postprocess=False)
        outputs = []
        for record, raw in zip(batched_inputs, predictions, strict=True):
            height = record.get("height", raw.image_size[0])
            width = record.get("width", raw.image_size[1])
            has_masks = raw.has("pred_masks")
            if has_masks:
                # Under another name, detectron2 selects them with the boxes but does not paste.
                raw.unpasted_masks = ROIMasks(raw.pred_masks[:, 0])
                raw.remove("pred_masks")
            instances = detector_postprocess(raw, height, width)
            if has_masks:
                instances.pred_masks = instances.unpasted_masks
                instances.remove("unpasted_masks")
            outputs.append({"instances": instances})
        return outputs
