# SPDX-License-Identifier: Apache-2.0
"""LongTailSemanticSegmentor: padded as detectron2's, or images as they are.

That unpadded models compute what mmsegmentation's do is in test_peer_parity.py.
"""

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, SemanticSegmentor
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.utils.events import EventStorage
from disalign.functional import alignment_loss
from disalign.sem_seg import DisAlignSemSegHead
from PIL import Image
from region_rebalance.head import RegionRebalanceHead
from torch import nn
from torch.nn import functional as F

from longtail.engine import SemanticSegmentorWithTTA, Trainer
from longtail.engine.inference.build import build_inference
from longtail.losses import CrossEntropy, PixelLoss
from longtail.modeling import FCNHead, LongTailSemanticSegmentor
from longtail.modeling.sem_seg.segmentor import is_semantic_segmentor
from tests.disalign.detectors import disturb
from tests.tiny import tiny_config

K, STRIDE, DIVISIBILITY = 3, 4, 8
PAD = "MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE"


class RoundingUp(Backbone):
    """Two convolutions with stride 2, whose last cells may reach over the image."""

    size_divisibility = DIVISIBILITY

    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(*(nn.Conv2d(c, 5, 3, 2, padding=1) for c in (3, 5)))
        self.seen = []

    def forward(self, image):
        self.seen.append(tuple(image.shape))
        return {"res2": self.convs(image)}

    def output_shape(self):
        return {"res2": ShapeSpec(channels=5, stride=STRIDE)}


def fcn_head():
    head = FCNHead(
        input_shape=RoundingUp().output_shape(),
        in_feature="res2",
        channels=4,
        norm="",
        num_classes=K,
        dropout=0.0,
        pixel_loss=PixelLoss(CrossEntropy(K)),
    )
    nn.init.normal_(head.predictor.weight)
    return head


def fpn_head():
    shape = RoundingUp().output_shape()
    return SemSegFPNHead(
        shape, num_classes=K, conv_dims=4, common_stride=STRIDE, ignore_value=255, norm=""
    )


HEADS = {
    "ours": fcn_head,
    "detectron2's": fpn_head,
    "with a region branch": lambda: RegionRebalanceHead(
        fcn_head(), num_classes=K, class_counts=torch.tensor([9, 5, 2])
    ),
    "second stage": lambda: disturb(
        DisAlignSemSegHead(
            fcn_head(),
            num_classes=K,
            class_weights=torch.tensor([0.5, 1.0, 1.5]),
            class_groups={},
            pad_to_stride=False,
        )
    ),
}
each_head = pytest.mark.parametrize("head", HEADS)


def segmentor(head="ours", cls=LongTailSemanticSegmentor, **options):
    torch.manual_seed(0)
    head = HEADS[head]() if isinstance(head, str) else head
    parts = {"backbone": RoundingUp(), "sem_seg_head": head}
    statistics = {"pixel_mean": [90.0, 100.0, 110.0], "pixel_std": [60.0, 61.0, 62.0]}
    return cls(**parts, **statistics, **options).double().eval()


def images_of(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, *size), generator=generator).byte() for size in sizes]


def normalized(image):
    return (image - torch.tensor([90.0, 100.0, 110.0])[:, None, None]).double() / torch.tensor(
        [60.0, 61.0, 62.0]
    )[:, None, None]


def resized(logits, size):
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]


def run(model, *images):
    with torch.no_grad():
        return [out["sem_seg"] for out in model([{"image": image} for image in images])]


@each_head
def test_without_padding_logits_are_resized_to_the_image(head):
    """Those of a 6 x 8 map to 21 x 31 pixels; the network sees the image alone."""
    model = segmentor(head, pad_to_stride=False)
    (image,) = images_of((21, 31))
    (given,) = run(model, image)
    assert model.backbone.seen == [(1, 3, 21, 31)]
    with torch.no_grad():
        maps = model.backbone(normalized(image)[None])
        logits = model.sem_seg_head.layers(maps)[0]
    assert logits.shape == (K, 6, 8)
    torch.testing.assert_close(given, resized(logits, (21, 31)), atol=1e-12, rtol=0)


@each_head
def test_aligned_sizes_are_the_same_padded_or_not(head):
    (image,) = images_of((24, 40))
    expected, given = (run(segmentor(head, pad_to_stride=p), image)[0] for p in (True, False))
    assert torch.equal(given, expected) and len(given.unique()) > 100


@pytest.mark.parametrize("size", [(24, 40), (21, 31), (17, 9)], ids=str)
@each_head
def test_padded_it_is_detectron2s(head, size):
    (image,) = images_of(size)
    own = segmentor(head, pad_to_stride=True)
    (expected,) = run(segmentor(head, cls=SemanticSegmentor), image)
    assert torch.equal(run(own, image)[0], expected)
    rows, columns = (-(-side // DIVISIBILITY) * DIVISIBILITY for side in size)
    assert own.backbone.seen == [(1, 3, rows, columns)]
    if size != (24, 40):
        unpadded = run(segmentor(head, pad_to_stride=False), image)[0]
        assert (unpadded - expected).abs().max() > 0.01 * expected.abs().max()


def test_the_size_of_the_original_image():
    model = segmentor(pad_to_stride=False)
    (image,) = images_of((21, 31))
    record = {"image": image, "height": 50, "width": 20}
    with torch.no_grad():
        (out,) = model([record])
    torch.testing.assert_close(out["sem_seg"], resized(run(model, image)[0], (50, 20)))


@pytest.mark.parametrize("sizes", [[(21, 31), (21, 31)], [(21, 31), (24, 32), (9, 31)]], ids=str)
def test_images_of_a_batch_do_not_change_each_other(sizes):
    model, images = segmentor(pad_to_stride=False), images_of(*sizes)
    alone = [run(model, image)[0] for image in images]
    model.backbone.seen.clear()
    for given, expected in zip(run(model, *images), alone, strict=True):
        torch.testing.assert_close(given, expected, atol=1e-12, rtol=0)
    # Of one size they go through at once.
    assert len(model.backbone.seen) == (1 if len(set(sizes)) == 1 else 3)


def labels_of(*sizes):
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, K, size, generator=generator) for size in sizes]


@pytest.mark.parametrize("head", ["ours", "with a region branch"])
def test_training_on_crops_of_any_size(head):
    """Padded to the largest of the batch at most, with ignored labels."""
    sizes = [(21, 31), (19, 31)]
    model = segmentor(head, pad_to_stride=False).train()
    images, labels = images_of(*sizes), labels_of(*sizes)
    losses = model([{"image": x, "sem_seg": y} for x, y in zip(images, labels, strict=True)])
    assert model.backbone.seen == [(2, 3, 21, 31)]
    batch = torch.stack([F.pad(normalized(x), (0, 0, 0, 21 - x.shape[1])) for x in images])
    targets = torch.stack([F.pad(y, (0, 0, 0, 21 - len(y)), value=255) for y in labels])
    logits = model.sem_seg_head.layers(model.backbone(batch))
    logits = F.interpolate(logits, (21, 31), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(logits, targets, ignore_index=255)
    torch.testing.assert_close(losses["loss_sem_seg"].double(), expected, rtol=1e-5, atol=0)


def test_the_second_stage_learns_from_the_logits_of_testing():
    model = segmentor("second stage", pad_to_stride=False)
    (image,), (labels,) = images_of((21, 31)), labels_of((21, 31))
    logits = run(model, image)[0]
    weights = model.sem_seg_head.class_weights
    expected = alignment_loss(logits.permute(1, 2, 0)[labels < K], labels[labels < K], weights)
    with EventStorage():
        loss = model.train()([{"image": image, "sem_seg": labels}])["loss_sem_seg"]
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-5, atol=0)


def configured(tmp_path, *overrides):
    options = ["MODEL.TIMM.NAME", "resnet18d", "MODEL.TIMM.OUTPUT_STRIDE", 32]
    return tiny_config(tmp_path, [*options, *overrides])


@pytest.mark.parametrize("padded", [True, False])
def test_windows_and_multi_scale_testing_take_images_as_they_are_too(tmp_path, padded):
    """Windows of 40 x 72 pixels, and copies of 45 x 60 and 68 x 90; or multiples of 32."""
    cfg = configured(
        tmp_path,
        *(PAD, padded, "TEST.SEM_SEG.CROP_SIZE", [40, 72], "TEST.SEM_SEG.STRIDE", [40, 72]),
        *("INPUT.MIN_SIZE_TEST", 45, "INPUT.MAX_SIZE_TEST", 90, "TEST.AUG.SCALES", [1.0, 1.5]),
        *("TEST.AUG.FLIP", False),
    )
    model, seen = Trainer.build_model(cfg).eval(), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")

    SemanticSegmentorWithTTA(cfg, model)([{"file_name": str(tmp_path / "image.png")}])
    assert seen == ([(64, 64), (96, 96)] if padded else [(45, 60), (67, 89)])
    seen.clear()
    cfg.TEST.SEM_SEG.MODE = "slide"
    (image,) = images_of((40, 80))
    build_inference(cfg, model)([{"image": image}])
    assert seen == [(64, 96) if padded else (40, 72)] * 2


def test_from_config(tmp_path):
    for padded in (True, False):
        model = Trainer.build_model(configured(tmp_path, PAD, padded))
        assert type(model) is LongTailSemanticSegmentor
        assert model.pad_to_stride is padded and model.size_divisibility == 32 * padded


class WithoutLayers(nn.Module):
    ignore_value = 255

    def __init__(self):
        super().__init__()
        self.predictor = nn.Conv2d(5, K, 1)

    def forward(self, features, targets=None):
        return self.predictor(features["res2"]), {}


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_head_that_does_not_give_its_logits(wrapped):
    head = WithoutLayers()
    if wrapped:
        head = RegionRebalanceHead(head, num_classes=K, class_counts=torch.ones(K))
    segmentor(head, pad_to_stride=True)
    with pytest.raises(ValueError, match=rf"{PAD} False .*WithoutLayers.*: set it to True") as info:
        segmentor(head, pad_to_stride=False)
    assert "\n" not in str(info.value)


def test_detectron2s_segmentor_does_not_read_the_key(tmp_path):
    other = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
    with pytest.raises(ValueError, match=rf"{PAD} False .*SemanticSegmentor does not.* True"):
        Trainer.build_model(configured(tmp_path, *other, PAD, False))
    assert type(Trainer.build_model(configured(tmp_path, *other, PAD, True))) is SemanticSegmentor


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SemanticSegmentor", True),
        ("LongTailSemanticSegmentor", True),
        ("GeneralizedRCNN", False),
        ("PanopticFPN", False),
        ("ImageClassifier", False),
    ],
)
def test_what_is_a_semantic_segmentor(tmp_path, name, expected):
    cfg = tiny_config(tmp_path, ["MODEL.META_ARCHITECTURE", name])
    assert is_semantic_segmentor(cfg) == expected


def test_an_unknown_model(tmp_path):
    cfg = tiny_config(tmp_path, ["MODEL.META_ARCHITECTURE", "SemanticSegmenter"])
    with pytest.raises(ValueError, match=r"META_ARCHITECTURE: .* 'SemanticSegmenter'"):
        is_semantic_segmentor(cfg)
