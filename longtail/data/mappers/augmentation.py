# SPDX-License-Identifier: Apache-2.0
"""The training and test recipe of the papers for semantic segmentation, part by part."""

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import NoOpTransform, Transform

# detectron2's; "absolute" alone gives all crops one size.
CROP_TYPES = ("absolute", "absolute_range", "relative", "relative_range")


class RandomScaleResize(T.Augmentation):
    """Resize, keeping the aspect ratio, to fit a box that is scaled by a random factor.

    With s uniform in ``scale_range`` the shorter side becomes ``short_edge * s``, unless the longer
    one would exceed ``long_edge * s``; then the longer one becomes that.
    """

    def __init__(
        self, short_edge: int, long_edge: int, scale_range: tuple[float, float] = (0.5, 2.0)
    ) -> None:
        """Set the box and the range of the factor.

        Args:
            short_edge: pixels of the shorter side at scale 1.
            long_edge: bound on the longer side at scale 1, in pixels.
            scale_range: lower and upper end of s, 0 < lower <= upper.

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
        self._init({"short_edge": short_edge, "long_edge": long_edge, "low": low, "high": high})

    def get_transform(self, image: np.ndarray) -> Transform:
        """Resize one (H, W, 3) image by a factor drawn from numpy's generator."""
        # detectron2 seeds numpy's global generator in every worker.
        scale = np.random.uniform(self.low, self.high)  # noqa: NPY002
        return T.ResizeShortestEdge(
            int(self.short_edge * scale), int(self.long_edge * scale)
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
    if not is_train:
        return [T.ResizeShortestEdge(options.MIN_SIZE_TEST, options.MAX_SIZE_TEST)]
    if len(options.MIN_SIZE_TRAIN) != 1:
        raise ValueError(
            "INPUT.MIN_SIZE_TRAIN must be a single size for semantic segmentation, varied by "
            f"INPUT.RESIZE_SCALE_RANGE, got {tuple(options.MIN_SIZE_TRAIN)}"
        )
    steps = [
        RandomScaleResize(
            options.MIN_SIZE_TRAIN[0], options.MAX_SIZE_TRAIN, tuple(options.RESIZE_SCALE_RANGE)
        )
    ]
    ignore = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    if options.CROP.ENABLED:
        if options.CROP.TYPE not in CROP_TYPES:
            raise ValueError(
                f"INPUT.CROP.TYPE must be one of {', '.join(CROP_TYPES)}, got {options.CROP.TYPE!r}"
            )
        steps.append(
            T.RandomCrop_CategoryAreaConstraint(
                options.CROP.TYPE, options.CROP.SIZE, options.CROP.SINGLE_CATEGORY_MAX_AREA, ignore
            )
        )
    if options.RANDOM_FLIP not in ("none", "horizontal"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP must be 'none' or 'horizontal', got {options.RANDOM_FLIP!r}"
        )
    if options.RANDOM_FLIP == "horizontal":
        steps.append(T.RandomFlip())
    if options.PHOTOMETRIC:
        steps.append(ColorAugSSDTransform(img_format=options.FORMAT))
    if options.CROP.ENABLED and options.CROP.TYPE == "absolute":
        steps.append(PadToSize(tuple(options.CROP.SIZE), tuple(cfg.MODEL.PIXEL_MEAN), ignore))
    return steps
