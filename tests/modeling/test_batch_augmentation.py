# SPDX-License-Identifier: Apache-2.0
"""Shifts and flips of a batch: each image is a crop of its padded self, all equally often."""

from collections import Counter

import torch
import torch.nn.functional as F

from longtail.modeling.classification.augmentation import shifted_and_flipped


def crops(image, pad, flip):
    """All images that may come of one, by the shift and the flip."""
    height, width = image.shape[1:]
    padded = F.pad(image, (pad,) * 4)
    found = {}
    for y in range(2 * pad + 1):
        for x in range(2 * pad + 1):
            crop = padded[:, y : y + height, x : x + width]
            found[y, x, False] = crop
            if flip:
                found[y, x, True] = crop.flip(2)
    return found


def counted(flip, number=4000, pad=1):
    torch.manual_seed(0)
    # Of two sizes, with other values in each pixel.
    images = torch.arange(1, number * 3 * 4 * 5 + 1).view(number, 3, 4, 5)
    result = shifted_and_flipped(images, pad, flip=flip)
    assert result.shape == images.shape and result.dtype == images.dtype
    seen = Counter()
    for image, augmented in zip(images, result, strict=True):
        (which,) = (
            k for k, crop in crops(image, pad, flip).items() if torch.equal(crop, augmented)
        )
        seen[which] += 1
    return seen


def test_every_shift_and_flip_is_equally_likely():
    seen = counted(flip=True)
    assert len(seen) == 3 * 3 * 2
    # 4000 / 18 = 222, with a standard deviation of 14.5.
    assert all(abs(n - 222) < 60 for n in seen.values())


def test_without_flip():
    seen = counted(flip=False, number=900)
    assert len(seen) == 9 and not any(mirrored for *_, mirrored in seen)


def test_without_shift():
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(shifted_and_flipped(images, 0, flip=False), images)
