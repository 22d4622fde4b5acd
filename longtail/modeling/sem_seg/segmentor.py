# SPDX-License-Identifier: Apache-2.0
"""detectron2's semantic segmentor, which can also take images as they are.

Shape alphabet:
    N: images of the batch
    K: classes
    h, w: height and width of an image
    H, W: height and width of the original image
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn

from longtail.utils.names import registered

from .base import SemSegHead
from .blocks import resize
from .wrapping import innermost

# From any of the classes at the size of the maps to the original image's size.
Finish = Callable[[Tensor], Tensor]
PAD_KEY = "MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE"


@META_ARCH_REGISTRY.register()
class LongTailSemanticSegmentor(SemanticSegmentor):
    """A semantic segmentor whose images need not be padded.

    detectron2 pads images to a multiple of the backbone's largest stride, enlarges the logits by
    the head's stride and cuts off what lies outside of the image. mmsegmentation takes images as
    they are and resizes the logits to the image, although the maps' last cells may reach over its
    border. Where the sides are multiples of the stride both are the same.
    """

    @configurable
    def __init__(self, *, pad_to_stride: bool = True, **parts: object) -> None:
        """Choose how images and logits are brought to a common size.

        Args:
            pad_to_stride: detectron2's way, for any head; otherwise mmsegmentation's, for heads
                with a method ``layers``, which gives the logits at the size of their maps.
            parts: the arguments of detectron2's ``SemanticSegmentor``.

        Raises:
            ValueError: images are not to be padded, and the head does not have ``layers``.
        """
        super().__init__(**parts)
        self.pad_to_stride = pad_to_stride
        head = innermost(self.sem_seg_head)
        if not pad_to_stride and not hasattr(head, "layers"):
            raise ValueError(
                f"{PAD_KEY} False needs a head with a method layers(features), which gives logits "
                f"at the size of the maps; {type(head).__name__} has none: set it to True"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """detectron2's arguments, and whether images are padded."""
        return {
            **super().from_config(cfg),
            "pad_to_stride": cfg.MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE,
        }

    @property
    def size_divisibility(self) -> int:
        """The number to a multiple of which the sides of a batch are padded; 0 for no padding."""
        return self.backbone.size_divisibility if self.pad_to_stride else 0

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Compute the losses in training, logits of the images' original sizes otherwise.

        Args:
            batched_inputs: records with ``image`` (3, h, w); in training also ``sem_seg`` (h, w);
                ``height`` and ``width`` of the original image if that has another size.

        Returns:
            In training the losses by name; otherwise for each image ``{"sem_seg": (K, H, W)}``,
            logits.
        """
        if self.pad_to_stride:
            return super().forward(batched_inputs)
        images = self._normalized(batched_inputs)
        if self.training:
            # Crops of other sizes than the largest of the batch end in padding nevertheless.
            ignore = self.sem_seg_head.ignore_value
            targets = [record["sem_seg"].to(self.device) for record in batched_inputs]
            targets = ImageList.from_tensors(targets, pad_value=ignore).tensor
            features = self.backbone(ImageList.from_tensors(images).tensor)
            return self.sem_seg_head(features, targets)[1]
        return [{"sem_seg": finish(maps)} for maps, finish in self._maps(images, batched_inputs)]

    def logit_maps(self, batched_inputs: list[dict]) -> list[tuple[Tensor, Finish]]:
        """Logits as the head computes them, before they grow to the size of the image.

        Resizing treats each class alone: whoever needs no more than the largest logit of a pixel
        can finish a few classes at a time, and never holds (K, H, W) logits, which are 7.2 GB for
        150 classes and 12 megapixels.

        Args:
            batched_inputs: as of :meth:`forward` in testing.

        Returns:
            For each image (K, a, b) logits at the size of the maps, and the function from any
            number of their classes, (k, a, b), to (k, H, W). The logits of a head that is not a
            :class:`.SemSegHead` are at the size of the image that the model reads.
        """
        has_maps = isinstance(innermost(self.sem_seg_head), SemSegHead)
        # Newer versions of detectron2 also pad to squares, for the backbones that ask for it.
        if not has_maps or getattr(self.backbone, "padding_constraints", None):
            inputs = [_without_original_size(record) for record in batched_inputs]
            logits = [output["sem_seg"] for output in self(inputs)]
            return [
                (z, partial(at_original_size, size=z.shape[1:], record=record))
                for z, record in zip(logits, batched_inputs, strict=True)
            ]
        return self._maps(self._normalized(batched_inputs), batched_inputs)

    def _normalized(self, batched_inputs: list[dict]) -> list[Tensor]:
        return [
            (record["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for record in batched_inputs
        ]

    def _maps(
        self, images: list[Tensor], batched_inputs: list[dict]
    ) -> list[tuple[Tensor, Finish]]:
        """The head's logits of (3, h, w) normalised images, see :meth:`logit_maps`."""
        sizes = [tuple(image.shape[1:]) for image in images]
        if self.pad_to_stride:
            parts = [ImageList.from_tensors(images, self.size_divisibility).tensor]
        elif len(set(sizes)) == 1:
            parts = [torch.stack(images)]
        else:
            parts = [image[None] for image in images]
        maps = [z for part in parts for z in self.sem_seg_head.layers(self.backbone(part))]
        return [
            (z, partial(self._finish, size=size, record=record))
            for z, size, record in zip(maps, sizes, batched_inputs, strict=True)
        ]

    def _finish(self, maps: Tensor, size: tuple[int, int], record: dict) -> Tensor:
        """(k, a, b) of an image of this size to (k, H, W)."""
        if self.pad_to_stride:
            stride = innermost(self.sem_seg_head).common_stride
            logits = resize(maps[None], scale_factor=stride)[0]
        else:
            logits = resize(maps[None], size=size)[0]
        return at_original_size(logits, size, record)


def original_size(record: dict, size: Sequence[int]) -> tuple[int, int]:
    """Height and width of a record's original image; ``size`` if it does not say another."""
    return record.get("height", size[0]), record.get("width", size[1])


def at_original_size(logits: Tensor, size: Sequence[int], record: dict) -> Tensor:
    """Bring logits to the size of the original image.

    Args:
        logits: (k, h', w'), of which (k, h, w) are the image's.
        size: h and w.
        record: with ``height`` and ``width`` of the original image if that has another size.

    Returns:
        (k, H, W).
    """
    output = original_size(record, size)
    if output == tuple(size):  # resizing would copy every value
        return logits[:, : size[0], : size[1]]
    return sem_seg_postprocess(logits, size, *output)


def _without_original_size(record: dict) -> dict:
    return {key: value for key, value in record.items() if key not in ("height", "width")}


def is_semantic_segmentor(cfg: CfgNode) -> bool:
    """Tell whether ``MODEL.META_ARCHITECTURE`` names detectron2's segmentor or one derived from it.

    Raises:
        ValueError: nothing is registered under that name.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    model = registered(META_ARCH_REGISTRY, name, "MODEL.META_ARCHITECTURE")
    return isinstance(model, type) and issubclass(model, SemanticSegmentor)


def check_padding(cfg: CfgNode, model: nn.Module) -> None:
    """Refuse PAD_TO_STRIDE False for a model that does not read it.

    Args:
        cfg: read for MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE and MODEL.META_ARCHITECTURE.
        model: what was built by it.

    Raises:
        ValueError: images are not to be padded, and the model would pad them.
    """
    if not cfg.MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE and not isinstance(
        model, LongTailSemanticSegmentor
    ):
        raise ValueError(
            f"{PAD_KEY} False is for MODEL.META_ARCHITECTURE LongTailSemanticSegmentor, "
            f"{cfg.MODEL.META_ARCHITECTURE} does not read it: set it to True"
        )
