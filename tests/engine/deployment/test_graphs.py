# SPDX-License-Identifier: Apache-2.0
"""Parts of exported graphs: they are for any number of images and any size."""

import itertools

import torch
from timm.layers import padding
from torch import nn

from longtail.engine.deployment import graphs
from longtail.modeling.sem_seg.blocks import conv_norm_relu, pool_and_resize


def test_padding_is_that_of_timm():
    timms = padding.get_same_padding
    cases = list(itertools.product(range(1, 70), (1, 3, 5), (1, 2, 3), (1, 2)))
    expected = [timms(*case) for case in cases]
    with graphs._short_sizes():
        assert padding.get_same_padding is not timms
        assert [padding.get_same_padding(*case) for case in cases] == expected
    assert padding.get_same_padding is timms


class PooledAndCropped(nn.Module):
    """What a head does to its maps, on maps that are larger than the images."""

    def __init__(self):
        super().__init__()
        self.conv = conv_norm_relu(3, 2, 1)

    def forward(self, x):
        height, width = x.shape[-2:]
        x = nn.functional.pad(x, (0, -width % 4, 0, -height % 4))
        return graphs._crop(pool_and_resize(x, 1, self.conv), height, width)


def test_a_program_is_for_any_number_of_images_of_any_size():
    model = PooledAndCropped().eval()
    auto = torch.export.Dim.AUTO
    # Nothing is padded here: that must not be taken for granted.
    program = torch.export.export(
        model, (torch.rand(2, 3, 8, 8),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
    ).module()
    for shape in ((2, 3, 8, 8), (1, 3, 12, 8), (3, 3, 9, 14)):
        x = torch.rand(*shape)
        # The mean of an image is one for all its pixels.
        padded = nn.functional.pad(x, (0, -shape[3] % 4, 0, -shape[2] % 4))
        with torch.no_grad():
            expected = model.conv(padded.mean((2, 3), keepdim=True)).expand(-1, -1, *shape[2:])
        torch.testing.assert_close(program(x), expected)
