# SPDX-License-Identifier: Apache-2.0
"""The training and test recipe of the papers for semantic segmentation, part by part."""

import random

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import NoOpTransform, Transform

from longtail.data.mappers.resizing import ResizedCrop, ShortestEdgeResize

_VALUES = np.arange(256, dtype=np.uint8)
# detectron2's; "absolute" alone gives all crops one size.
CROP_TYPES = ("absolute", "absolute_range", "relative", "relative_range")


class RandomScaleResize(T.Augmentation):
    """Resize, keeping the aspect ratio, to fit a box that is scaled by a random factor.

    With s uniform in ``scale_range`` the shorter side becomes ``short_edge * s``, unless the longer
    one would exceed ``long_edge * s``; then the longer one becomes that.
    """

    def __init__(
        self,
        short_edge: int,
        long_edge: int,
        scale_range: tuple[float, float] = (0.5, 2.0),
        kind: str = "opencv",
    ) -> None:
        """Set the box and the range of the factor.

        Args:
            short_edge: pixels of the shorter side at scale 1.
            long_edge: bound on the longer side at scale 1, in pixels.
            scale_range: lower and upper end of s, 0 < lower <= upper.
            kind: of the filter, see :class:`~longtail.data.mappers.resizing.ResizedWindow`.

        Raises:
            ValueError: the range is empty or not positive.
        """
        super().__init__()
        low, high = scale_range
        if not 0 < low <= high:
            raise ValueError(
                f"INPUT.RESIZE_SCALE_RANGE must be [low, high] with 0 < low <= high, "
                f"got {list(scale_range)}"
            )
        sides = {"short_edge": short_edge, "long_edge": long_edge}
        self._init({**sides, "low": low, "high": high, "kind": kind})

    def get_transform(self, image: np.ndarray) -> Transform:
        """Resize one (H, W, 3) image by a factor drawn from numpy's generator."""
        # detectron2 seeds numpy's global generator in every worker.
        scale = np.random.uniform(self.low, self.high)  # noqa: NPY002
        return ShortestEdgeResize(
            int(self.short_edge * scale), int(self.long_edge * scale), self.kind
        ).get_transform(image)


class PadToSize(T.Augmentation):
    """Pad right and below to a fixed size: the image with its mean colour, labels as ignored."""

    def __init__(
        self, size: tuple[int, int], pixel_mean: tuple[float, ...], ignore_label: int = 255
    ) -> None:
        """Set the size and the fillings.

        Args:
            size: height and width in pixels; a larger image stays as it is.
            pixel_mean: the colour that the model subtracts. Rounded to whole numbers the padding
                is zero, up to 0.01 standard deviations, after the model's normalisation.
            ignore_label: label of the padding.
        """
        super().__init__()
        self._init({"size": size, "pixel_mean": pixel_mean, "ignore_label": ignore_label})

    def get_transform(self, image: np.ndarray) -> Transform:
        """Pad one (H, W, 3) image."""
        bottom = max(self.size[0] - image.shape[0], 0)
        right = max(self.size[1] - image.shape[1], 0)
        if not bottom and not right:
            return NoOpTransform()
        return _PadTransform(bottom, right, self.pixel_mean, self.ignore_label)


class _PadTransform(Transform):
    """A padding of three values: fvcore's PadTransform knows one grey value only."""

    def __init__(
        self, bottom: int, right: int, pixel_mean: tuple[float, ...], ignore_label: int
    ) -> None:
        super().__init__()
        self._set_attributes(
            {
                "bottom": bottom,
                "right": right,
                "color": tuple(round(value) for value in pixel_mean),
                "ignore_label": ignore_label,
            }
        )

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._pad(img, self.color)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._pad(segmentation, self.ignore_label)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def _pad(self, array: np.ndarray, value: int | tuple[int, ...]) -> np.ndarray:
        return cv2.copyMakeBorder(
            array, 0, self.bottom, 0, self.right, cv2.BORDER_CONSTANT, value=value
        )


class PhotometricDistortion(ColorAugSSDTransform):
    """detectron2's, equal to it in every value: by tables of the 256 values, without reordering."""

    def __init__(self, img_format: str) -> None:
        """Set the order of the channels.

        Args:
            img_format: ``"RGB"`` or ``"BGR"``.
        """
        super().__init__(img_format)
        if img_format == "RGB":
            self._to_hsv, self._from_hsv = cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB
        else:
            self._to_hsv, self._from_hsv = cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR
        # Its own apply_image turns RGB around, and back.
        self.is_rgb = False

    def convert(self, img: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
        """Scale and shift values (...) uint8, and clip them to 0..255."""
        return cv2.LUT(img, super().convert(_VALUES, alpha, beta))

    def saturation(self, img: np.ndarray) -> np.ndarray:
        """Scale the saturation of (H, W, 3), or do not."""
        if not random.randrange(2):
            return img
        factor = random.uniform(self.saturation_low, self.saturation_high)
        return self._in_hsv(img, 1, super().convert(_VALUES, alpha=factor))

    def hue(self, img: np.ndarray) -> np.ndarray:
        """Turn the hue of (H, W, 3), or do not."""
        if not random.randrange(2):
            return img
        turn = random.randint(-self.hue_delta, self.hue_delta)
        return self._in_hsv(img, 0, ((_VALUES.astype(int) + turn) % 180).astype(np.uint8))

    def _in_hsv(self, img: np.ndarray, channel: int, values: np.ndarray) -> np.ndarray:
        table = np.repeat(_VALUES[:, None], 3, axis=1)
        table[:, channel] = values
        hsv = cv2.LUT(cv2.cvtColor(img, self._to_hsv), table[None])
        return cv2.cvtColor(hsv, self._from_hsv)


def build_sem_seg_augmentation(cfg: CfgNode, is_train: bool) -> list:
    """Build the recipe that the config describes.

    Training: resize, crop with at most ``SINGLE_CATEGORY_MAX_AREA`` of one class, flip,
    photometric distortion, padding to the crop size. Test: resize to fit
    (MAX_SIZE_TEST, MIN_SIZE_TEST).

    Args:
        cfg: the config.
        is_train: training or test.

    Returns:
        detectron2 augmentations, in order.

    Raises:
        ValueError: an unusable value of a config key.
    """
    options = cfg.INPUT
    kind = options.RESIZE_FILTER
    if not is_train:
        return [ShortestEdgeResize(options.MIN_SIZE_TEST, options.MAX_SIZE_TEST, kind)]
    if len(options.MIN_SIZE_TRAIN) != 1:
        raise ValueError(
            "INPUT.MIN_SIZE_TRAIN must be a single size for semantic segmentation, varied by "
            f"INPUT.RESIZE_SCALE_RANGE, got {tuple(options.MIN_SIZE_TRAIN)}"
        )
    scale_range = tuple(options.RESIZE_SCALE_RANGE)
    resize = RandomScaleResize(options.MIN_SIZE_TRAIN[0], options.MAX_SIZE_TRAIN, scale_range, kind)
    ignore = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    steps = [resize]
    if options.CROP.ENABLED:
        if options.CROP.TYPE not in CROP_TYPES:
            raise ValueError(
                f"INPUT.CROP.TYPE must be one of {', '.join(CROP_TYPES)}, got {options.CROP.TYPE!r}"
            )
        crop = T.RandomCrop(options.CROP.TYPE, options.CROP.SIZE)
        steps = [ResizedCrop(resize, crop, options.CROP.SINGLE_CATEGORY_MAX_AREA, ignore)]
    if options.RANDOM_FLIP not in ("none", "horizontal"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP must be 'none' or 'horizontal', got {options.RANDOM_FLIP!r}"
        )
    if options.RANDOM_FLIP == "horizontal":
        steps.append(T.RandomFlip())
    if options.PHOTOMETRIC:
        steps.append(PhotometricDistortion(img_format=options.FORMAT))
    if options.CROP.ENABLED and options.CROP.TYPE == "absolute":
        steps.append(PadToSize(tuple(options.CROP.SIZE), tuple(cfg.MODEL.PIXEL_MEAN), ignore))
    return steps
