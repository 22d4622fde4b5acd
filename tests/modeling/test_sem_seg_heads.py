# SPDX-License-Identifier: Apache-2.0
"""The heads, each by the contract and by what is its own."""

from typing import ClassVar

import pytest
import torch
from torch.nn import functional as F

from longtail.modeling.sem_seg.ocr import attend, gather_objects
from tests.messages import raises_naming
from tests.modeling.head_contract import NARROW, SemSegHeadContract

LEVELS = ["res2", "res3", "res4", "res5"]
LEVELS_KEY = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
# Batch normalization of one image and one cell: the keys that help, and another normalization.
ONE_IMAGE = (
    *("SOLVER.IMS_PER_BATCH", "SOLVER.ACCUMULATION_STEPS", "MODEL.SEM_SEG_HEAD.NORM", "GN"),
)


def levels_of(*channels: int) -> dict[str, int]:
    return dict(zip(LEVELS, channels, strict=True))


def part_slices(length: int, parts: int) -> list[slice]:
    """Part i of an axis: from floor(i length / parts) to ceil((i + 1) length / parts)."""
    return [slice(i * length // parts, -(-(i + 1) * length // parts)) for i in range(parts)]


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
    paper: ClassVar[dict] = {"PROJECT_CHANNELS": [48]}
    overrides: ClassVar[dict] = {"PROJECT_CHANNELS": [4]}
    no_levels = ("IN_FEATURES []", "MODEL.SEM_SEG_HEAD")

    def test_one_image_cannot_be_normalized(self, head, features, labels):
        single = {key: x[:1] for key, x in features.items()}
        with raises_naming(ValueError, *ONE_IMAGE):
            head.train()(single, labels[:1])

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
        key, value = options
        with raises_naming(ValueError, self.name, f"{key} {value}", "MODEL.SEM_SEG_HEAD"):
            self.build(cfg)


class TestPSPHead(SemSegHeadContract):
    name = "PSPHead"
    parameters = 23.151

    def test_pools(self, head, features):
        """[input, 1, 2, 3, 6], joined: means over parts of the map, convolved, resized."""
        head.eval()
        entered = []
        module = head.pyramid_pooling
        module.bottleneck.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        head.pixel_features(features)
        x = features["res5"]
        assert torch.equal(entered[0][:, :12], x)
        parts = entered[0][:, 12:].split(8, dim=1)
        for conv, cells, part in zip(module.pools, (1, 2, 3, 6), parts, strict=True):
            pooled = x.new_zeros(2, 12, cells, cells)
            for i, rows in enumerate(part_slices(8, cells)):
                for j, columns in enumerate(part_slices(12, cells)):
                    pooled[:, :, i, j] = x[:, :, rows, columns].mean(dim=(2, 3))
            resized = F.interpolate(conv(pooled), (8, 12), mode="bilinear", align_corners=False)
            torch.testing.assert_close(part, resized, atol=1e-6, rtol=0)

    def test_one_image_cannot_be_normalized(self, head, features, labels):
        single = {key: x[:1] for key, x in features.items()}
        with raises_naming(ValueError, *ONE_IMAGE):
            head.train()(single, labels[:1])
        assert head.eval()(single)[0].shape[0] == 1

    @pytest.mark.parametrize("scales", [[], [0, 2], [1.5]])
    def test_bad_pools(self, cfg, scales):
        cfg.MODEL.SEM_SEG_HEAD.POOL_SCALES = scales
        with raises_naming(ValueError, "MODEL.SEM_SEG_HEAD.POOL_SCALES", str(scales)):
            self.build(cfg)


class TestUPerHead(SemSegHeadContract):
    name = "UPerHead"
    parameters = 40.590
    paper: ClassVar[dict] = {"IN_FEATURES": LEVELS}
    overrides: ClassVar[dict] = {"IN_FEATURES": LEVELS}

    @pytest.mark.parametrize(
        ("levels", "width", "parameters"),
        [
            ((96, 192, 384, 768), 512, 31.497),
            ((128, 256, 512, 1024), 512, 33.316),
            ((1024, 1024, 1024, 1024), 1024, 120.765),
        ],
        ids=["Swin-T", "Swin-B", "BEiT-L"],
    )
    def test_number_of_parameters_on_transformers(self, cfg, levels, width, parameters):
        self.configure(cfg, {"CONVS_DIM": width, "NUM_CLASSES": 150, **self.paper})
        cfg.MODEL.SEM_SEG_HEAD.AUXILIARY.LOSS_WEIGHT = 0.0
        with torch.device("meta"):
            head = self.build(cfg, levels_of(*levels))
        assert round(sum(p.numel() for p in head.parameters()) / 1e6, 3) == parameters

    def test_top_down(self, head, features):
        """Every level's result, from fine to coarse, written out."""
        head.eval()
        entered = []
        head.fusion.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        head.pixel_features(features)

        def to(x, size):
            return F.interpolate(x, size, mode="bilinear", align_corners=False)

        res2, res3, res4, res5 = (features[level] for level in LEVELS)
        top = head.pyramid_pooling(res5)
        third = head.laterals[2](res4) + to(top, res4.shape[2:])
        second = head.laterals[1](res3) + to(third, res3.shape[2:])
        first = head.laterals[0](res2) + to(second, res2.shape[2:])
        results = [conv(x) for conv, x in zip(head.outputs, (first, second, third), strict=True)]
        size = res2.shape[2:]
        expected = torch.cat([to(x, size) for x in [*results, top]], dim=1)
        torch.testing.assert_close(entered[0], expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("levels", [["res5"], ["res5", "res2"]], ids=str)
    def test_levels_from_fine_to_coarse(self, cfg, levels):
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = levels
        with raises_naming(ValueError, LEVELS_KEY, "2", str(levels)):
            self.build(cfg)


class TestOCRHead(SemSegHeadContract):
    name = "OCRHead"
    # Of both stages: 270^2 + 2 x 270 + 270 x 150 + 150 = 0.114M are the first one's.
    parameters = 2.620
    backbone = levels_of(18, 36, 72, 144)
    paper: ClassVar[dict] = {"IN_FEATURES": LEVELS, "OCR_CHANNELS": 256}
    overrides: ClassVar[dict] = {"IN_FEATURES": LEVELS, "OCR_CHANNELS": 4}
    losses = ("loss_sem_seg", "loss_auxiliary", "loss_coarse")

    @pytest.mark.parametrize(
        ("levels", "parameters"), [((18, 36, 72, 144), 2.506), ((48, 96, 192, 384), 4.580)]
    )
    def test_number_of_parameters_of_the_second_stage(self, cfg, levels, parameters):
        self.configure(cfg, {"CONVS_DIM": 512, "NUM_CLASSES": 150, **self.paper})
        cfg.MODEL.SEM_SEG_HEAD.AUXILIARY.LOSS_WEIGHT = 0.0
        with torch.device("meta"):
            head = self.build(cfg, levels_of(*levels))
        second = [p for key, p in head.named_parameters() if not key.startswith("coarse")]
        assert round(sum(p.numel() for p in second) / 1e6, 3) == parameters

    def test_levels_from_fine_to_coarse(self, cfg):
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res5", "res2"]
        with raises_naming(ValueError, LEVELS_KEY, "1", "['res5', 'res2']", "[8, 4]"):
            self.build(cfg)

    def test_first_stage(self, cfg, features, labels):
        """A 1x1 FCN as wide as its input, without dropout, with its own weight."""
        head = self.build(cfg).train()
        joined = sum(NARROW.values())
        assert head.coarse_conv.weight.shape == (joined, joined, 1, 1)
        assert head.coarse_predictor.dropout == 0
        coarse = head.stages(features)[1]["loss_coarse"]
        logits = F.interpolate(coarse, labels.shape[1:], mode="bilinear", align_corners=False)
        expected = 0.4 * F.cross_entropy(logits, labels, ignore_index=255)
        torch.testing.assert_close(head(features, labels)[1]["loss_coarse"], expected)

    def test_gathered_objects(self):
        """o_k = sum_p softmax_p(z_kp) x_p, in loops."""
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
        z = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64)
        found = gather_objects(x, z)
        assert found.shape == (2, 5, 3, 1)
        for n in range(2):
            for k in range(3):
                weights = z[n, k].exp() / z[n, k].exp().sum()
                expected = sum(weights[i, j] * x[n, :, i, j] for i in range(3) for j in range(4))
                torch.testing.assert_close(found[n, :, k, 0], expected, atol=1e-12, rtol=0)

    def test_gathering_a_large_map_in_half_precision(self):
        """A weight of 1 / 166800 is 100.6 times the smallest number of float16: 0.4 % off."""
        x = torch.rand(1, 2, 400, 417, generator=torch.Generator().manual_seed(4)).half()
        with torch.autocast("cpu", dtype=torch.float16):
            found = gather_objects(x, torch.zeros(1, 1, 400, 417).half())
        expected = x.double().mean(dim=(2, 3))
        torch.testing.assert_close(found[..., 0, 0].double(), expected, atol=3e-4, rtol=0)

    def test_attention(self):
        """c_p = sum_k softmax_k(q_p . k_k / 2) v_k with A = 4, in loops."""
        generator = torch.Generator().manual_seed(5)
        q = torch.randn(2, 4, 2, 3, generator=generator, dtype=torch.float64)
        k, v = torch.randn(2, 2, 4, 5, 1, generator=generator, dtype=torch.float64)
        found = attend(q, k, v)
        for n in range(2):
            for i in range(2):
                for j in range(3):
                    scores = (q[n, :, i, j] @ k[n, :, :, 0] / 2).exp()
                    expected = v[n, :, :, 0] @ (scores / scores.sum())
                    torch.testing.assert_close(found[n, :, i, j], expected, atol=1e-12, rtol=0)
