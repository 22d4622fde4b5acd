# SPDX-License-Identifier: Apache-2.0
"""Random windows of images for classification, resized, flipped and coloured.

Shapes: (H, W) size of the image.
"""

import math

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

# Width by height of a training crop, before it is resized to a square.
CROP_RATIO = (3 / 4, 4 / 3)
FLIP_PROBABILITY = 0.5

# First row, first column, height and width.
Box = tuple[int, int, int, int]


class RandomWindow:
    """torchvision's crop, flip and color jitter, equal to them in every value and in what is drawn.

    Values differ only where an image was decoded at a part of its size. In less time: a window of a
    larger image is copied before it is resized, or torch would take a slower way and put the
    channels outermost, which Pillow, whose colors are faster than torch's, would have to reorder.
    """

    def __init__(
        self, size: int, scale: tuple[float, float], *, flip: bool, color_jitter: float
    ) -> None:
        """Set the augmentations.

        Args:
            size: side of the result in pixels.
            scale: smallest and largest part of the area that a window covers, in (0, 1].
            flip: whether half of the windows are flipped horizontally.
            color_jitter: j in [0, 1]: brightness, contrast and saturation are scaled by factors in
                [1 - j, 1 + j]; 0 leaves colors as they are.
        """
        self.size, self.scale = size, scale
        self.flip = flip
        jitter = dict.fromkeys(("brightness", "contrast", "saturation"), color_jitter)
        self.colors = v2.ColorJitter(**jitter) if color_jitter else None

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Augment an image (3, H, W) uint8 in RGB to (3, size, size)."""
        return self.cut(image, self.draw(image.shape[1:]))

    def draw(self, size: tuple[int, int]) -> Box:
        """Draw a window of an image of size (H, W), in its pixels."""
        image = torch.empty(()).expand(3, *size)
        # Before torchvision 0.21 no other method gives what is drawn.
        return tuple(map(int, v2.RandomResizedCrop.get_params(image, self.scale, CROP_RATIO)))

    def shrinking(self, box: Box) -> float:
        """By what the side of a window is divided that shrinks least; below 1 if it grows."""
        return min(box[2:]) / self.size

    def cut(self, image: torch.Tensor, box: Box, reduction: int = 1) -> torch.Tensor:
        """Resize the window of an image, and augment it.

        Args:
            image: (3, ceil(H / r), ceil(W / r)) uint8 in RGB, see
                :func:`~longtail.data.formats.images.read_reduced`.
            box: in pixels of (H, W).
            reduction: r.

        Returns:
            (3, size, size) uint8.
        """
        if reduction == 1:
            image = self._window(image, box)
        else:
            image = self._reduced_window(image, box, reduction)
        if self.flip and torch.rand(1) < FLIP_PROBABILITY:
            image = image.flip(-1)
        if self.colors is None:
            return image
        picture = self.colors(Image.fromarray(image.permute(1, 2, 0).numpy()))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def _window(self, image: torch.Tensor, box: Box) -> torch.Tensor:
        top, left, height, width = box
        window = image[:, top : top + height, left : left + width]
        copied = window.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        return functional.resize(copied, [self.size, self.size], antialias=True)

    def _reduced_window(self, image: torch.Tensor, box: Box, reduction: int) -> torch.Tensor:
        """By Pillow, whose windows need not begin at a pixel; like torch's, of whole pixels."""
        top, left, height, width = (side / reduction for side in box)
        # Nothing from outside of the window, but for the rest of its outermost pixels.
        y, x = int(top), int(left)
        pixels = image[:, y : math.ceil(top + height), x : math.ceil(left + width)]
        picture = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        window = (left - x, top - y, left - x + width, top - y + height)
        resized = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=window)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
