"""The heads, each by the contract and by what is its own."""

import pytest
import torch

from tests.modeling.head_contract import SemSegHeadContract


class TestFCNHead(SemSegHeadContract):
    name = "FCNHead"
    parameters = 23.673

    def test_levels_and_widths(self, head):
        shapes = [tuple(conv.weight.shape) for conv in [*head.convs, head.join]]
        assert shapes == [(8, 12, 3, 3), (8, 8, 3, 3), (8, 20, 3, 3)]

    def test_auxiliary_is_one_convolution_on_the_third_level(self, head):
        shapes = [tuple(p.shape) for p in head.auxiliary.parameters() if p.ndim == 4]
        assert shapes == [(3, 8, 1, 1), (8, 10, 3, 3)]


class TestSeparableDeepLabV3PlusHead(SemSegHeadContract):
    name = "SeparableDeepLabV3PlusHead"
    parameters = 17.765
    paper = {"PROJECT_CHANNELS": [48]}
    overrides = {"PROJECT_CHANNELS": [4]}

    def test_branches(self, head):
        dilations = [branch[0].dilation for branch in list(head.branches)[1:]]
        assert dilations == [(12, 12), (24, 24), (36, 36)]
        assert head.branches[0].kernel_size == (1, 1)
        assert all(branch[0].groups == branch[0].in_channels for branch in head.branches[1:])

    def test_order_of_the_concatenations(self, head, features):
        """[pool, 1, 12, 24, 36], then [up, low]."""
        head.eval()
        entered = []
        for module in (head.bottleneck, head.decoder):
            module.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        head.pixel_features(features)
        high = features["res5"]
        pooled = head.image_pool(high).expand(-1, -1, *high.shape[2:])
        parts = [pooled, *(branch(high) for branch in head.branches)]
        torch.testing.assert_close(entered[0], torch.cat(parts, dim=1), atol=1e-6, rtol=0)
        low = head.reduce_low(features["res2"])
        torch.testing.assert_close(entered[1][:, 8:], low, atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        "options", [["IN_FEATURES", ["res5"]], ["PROJECT_CHANNELS", [4, 4]]], ids=str
    )
    def test_two_levels_are_needed(self, cfg, options):
        cfg.MODEL.SEM_SEG_HEAD.merge_from_list(options)
        with pytest.raises(ValueError, match="reads two levels, low and high"):
            self.build(cfg)
