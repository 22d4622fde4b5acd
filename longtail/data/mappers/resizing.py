# SPDX-License-Identifier: Apache-2.0
"""Resizing and cropping in one: only the pixels that a model sees are computed.

Shapes: (H, W) size of the image that was read, (h, w) of the resized one.
"""

import functools

import cv2
import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image

from longtail.data.formats.images import read_reduced

# detectron2's crops look so often for one of several classes.
_TRIES = 10

Size = tuple[int, int]


class ResizedWindow(Transform):
    """A window of the image that resizing would give.

    Of ``pillow`` it computes the window alone, whose position Pillow rounds to float32: next to a
    crop of the whole image, which detectron2 makes, about one value in a thousand differs by one
    grey level, and none by more than two. ``opencv`` resizes the whole image: it is faster still,
    and what mmsegmentation does.
    """

    def __init__(
        self, size: Size, resized: Size, crop: tuple[int, int, int, int], kind: str
    ) -> None:
        """Set the window.

        Args:
            size: (H, W).
            resized: (h, w).
            crop: y, x, height and width in the resized image.
            kind: ``opencv``, bilinear between the four nearest pixels, or ``pillow``, bilinear over
                all pixels that a pixel of a smaller image covers.
        """
        super().__init__()
        self._set_attributes({"size": size, "resized": resized, "crop": crop, "kind": kind})

    @property
    def shrinking(self) -> float:
        """By what the side that shrinks least is divided; below 1 if it grows."""
        return min(old / new for old, new in zip(self.size, self.resized, strict=True))

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Resize an image (H, W, 3) uint8, bilinearly."""
        return self.apply_reduced(img, 1)

    def apply_reduced(self, img: np.ndarray, reduction: int) -> np.ndarray:
        """Resize an image that was decoded at a part of its size.

        Args:
            img: (ceil(H / r), ceil(W / r), 3) uint8, see
                :func:`~longtail.data.formats.images.read_reduced`.
            reduction: r.

        Returns:
            What :meth:`apply_image` gives, of the same size and at the same place.
        """
        y, x, height, width = self.crop
        if self.size == self.resized:
            return img[y : y + height, x : x + width]
        # (H, W) in pixels of what was decoded, of which the last ones may lie outside in part.
        size = tuple(side / reduction for side in self.size)
        if self.kind == "opencv":
            # By the factor, not the size: it may be one pixel more that is cut off.
            down, right = (new / old for old, new in zip(size, self.resized, strict=True))
            whole = cv2.resize(img, None, fx=right, fy=down, interpolation=cv2.INTER_LINEAR)
            return whole[y : y + height, x : x + width]
        down, right = (old / new for old, new in zip(size, self.resized, strict=True))
        # The product of the last pixel may be rounded up.
        bottom, end = min((y + height) * down, size[0]), min((x + width) * right, size[1])
        window = (x * right, y * down, end, bottom)
        image = Image.fromarray(img)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=window))

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize labels (H, W), each from the nearest pixel."""
        y, x, height, width = self.crop
        rows = _nearest(self.size[0], self.resized[0])[y : y + height]
        columns = _nearest(self.size[1], self.resized[1])[x : x + width]
        return segmentation[rows].take(columns, axis=1)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Move points (N, 2), x and y."""
        scale = np.divide(self.resized, self.size)[::-1]
        return coords * scale - np.array(self.crop[1::-1])


@functools.lru_cache(maxsize=8)
def _nearest(old: int, new: int) -> np.ndarray:
    """The pixel that Pillow takes for each of the new ones; a crop asks for it at each try."""
    indices = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(indices.resize((new, 1), Image.Resampling.NEAREST))[0]


class ShortestEdgeResize(T.ResizeShortestEdge):
    """detectron2's, with a choice of the filter."""

    def __init__(self, short_edge: int, long_edge: int, kind: str = "opencv") -> None:
        """Set the sizes.

        Args:
            short_edge: pixels of the shorter side, 0 to leave images as they are.
            long_edge: bound on the longer side.
            kind: see :class:`ResizedWindow`.
        """
        super().__init__(short_edge, long_edge)
        self.kind = kind

    def get_transform(self, image: np.ndarray) -> Transform:
        """Resize one (H, W, 3) image."""
        transform = super().get_transform(image)
        if isinstance(transform, NoOpTransform):
            return transform
        resized = (transform.new_h, transform.new_w)
        return ResizedWindow(image.shape[:2], resized, (0, 0, *resized), self.kind)


class ResizedCrop(T.Augmentation):
    """A random crop of a resized image; as detectron2's, it looks for one of several classes.

    The same numbers are drawn as by ``resize`` and detectron2's RandomCrop_CategoryAreaConstraint
    after it.
    """

    def __init__(
        self, resize: T.Augmentation, crop: T.RandomCrop, max_area: float, ignore_label: int
    ) -> None:
        """Set what follows what.

        Args:
            resize: gives a :class:`ResizedWindow` of the whole image.
            crop: draws the size.
            max_area: the largest share of the labelled pixels that a class may have; 1 to take any
                crop. After ten tries any is taken.
            ignore_label: of the pixels that have no label.
        """
        super().__init__()
        self._init(
            {"resize": resize, "crop": crop, "max_area": max_area, "ignore_label": ignore_label}
        )

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        """Draw a window of one (H, W, 3) image with labels (H, W) uint8."""
        whole = self.resize.get_transform(image)
        height, width = whole.resized
        for _ in range(_TRIES):
            size = self.crop.get_crop_size(whole.resized)
            y = np.random.randint(height - size[0] + 1)  # noqa: NPY002  (detectron2 seeds it)
            x = np.random.randint(width - size[1] + 1)  # noqa: NPY002
            window = ResizedWindow(whole.size, whole.resized, (y, x, *size), whole.kind)
            if self.max_area >= 1 or self._is_mixed(window.apply_segmentation(sem_seg)):
                break
        return window

    def _is_mixed(self, labels: np.ndarray) -> bool:
        # Eight times as fast as np.bincount. It counts in float32, exact up to 2^24 pixels.
        counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        counts[self.ignore_label] = 0
        most = counts.max()
        return np.count_nonzero(counts) > 1 and most < counts.sum() * self.max_area


class UndecodedInput(T.AugInput):
    """An input of augmentations whose image is decoded when its window is known."""

    def __init__(self, file: str, image_format: str, labels: np.ndarray) -> None:
        """Set what will be read.

        Args:
            file: of the image. The first augmentation gives a :class:`ResizedWindow` and asks for
                nothing but the image's shape.
            image_format: ``"RGB"`` or ``"BGR"``.
            labels: (H, W) uint8.
        """
        # One byte, shown as (H, W, 3).
        super().__init__(np.broadcast_to(np.uint8(0), (*labels.shape, 3)), sem_seg=labels)
        self._unread: tuple[str, str] | None = (file, image_format)

    def transform(self, tfm: Transform) -> None:
        """Transform image and labels; at first, read the image at the size that is enough."""
        if self._unread is None:
            super().transform(tfm)
            return
        pixels, reduction = read_reduced(*self._unread, tfm.shrinking)
        self._unread = None
        self.image = tfm.apply_reduced(pixels, reduction)
        self.sem_seg = tfm.apply_segmentation(self.sem_seg)
