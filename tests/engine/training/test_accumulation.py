# SPDX-License-Identifier: Apache-2.0
"""A batch in parts has the gradient of the batch at once."""

from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, SemanticSegmentor
from detectron2.utils.events import EventStorage
from region_rebalance.head import RegionRebalanceHead
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from longtail.engine import Trainer
from longtail.engine.training.accumulation import part_weights, split_batch
from longtail.engine.training.step import StepTrainer
from longtail.losses import CrossEntropy, DiceLoss, PixelLoss
from longtail.modeling import FCNHead, OCRHead
from longtail.modeling.sem_seg.base import PixelClassifier
from longtail.utils.randomness import derive_seed, seed_generators
from tests.messages import raises_naming
from tests.processes import run_in_two_processes
from tests.tiny_detection import detector_config, detector_inputs

K, SIZE, IMAGES = 4, 32, 4
# Of a detector's output layers.
LAYERS = ("cls_score", "bbox_pred")
WEIGHT = torch.tensor([0.1, 2.0, 0.5, 3.0])


class TinyBackbone(Backbone):
    """One convolution without batch statistics, stride 4; images are padded to multiples of 8."""

    size_divisibility = 8

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, stride=4)

    def forward(self, image):
        return {"res2": self.conv(image)}


def make_head(kind, pixel_loss):
    shape = {"res2": ShapeSpec(channels=5, stride=4)}
    shared = {
        "input_shape": shape,
        "norm": "",
        "num_classes": K,
        "dropout": 0.0,
        "pixel_loss": pixel_loss,
    }
    if kind == "ocr":
        return OCRHead(
            in_features=("res2",),
            channels=6,
            attention_channels=4,
            coarse_loss_weight=0.4,
            **shared,
        )
    auxiliary = FCNHead(
        in_feature="res2", channels=3, loss_name="loss_auxiliary", loss_weight=0.4, **shared
    )
    return FCNHead(in_feature="res2", channels=4, auxiliary=auxiliary, **shared)


LOSSES = {
    "plain": lambda: PixelLoss(CrossEntropy(K)),
    "weighted": lambda: PixelLoss(CrossEntropy(K, class_weight=WEIGHT)),
    "dice": lambda: DiceLoss(),
}
MODELS = {
    "plain": ("fcn", "plain", None),
    "weighted": ("fcn", "weighted", None),
    "dice": ("fcn", "dice", None),
    "ocr": ("ocr", "plain", None),
    "regions": ("fcn", "plain", {}),
    "regions, area": ("fcn", "weighted", {"label_downsampling": "area"}),
}


def make_model(name):
    torch.manual_seed(0)
    kind, loss, region = MODELS[name]
    head = make_head(kind, LOSSES[loss]())
    for module in head.modules():
        if isinstance(module, PixelClassifier):
            # With the usual small weights there is hardly a gradient before the classifier.
            nn.init.normal_(module.weight)
    if region is not None:
        counts = torch.tensor([9, 5, 3, 1])
        head = RegionRebalanceHead(head, num_classes=K, class_counts=counts, **region)
        # Its loss should not be lost beside the others.
        head.loss_weight = 3.0
    return SemanticSegmentor(
        backbone=TinyBackbone(), sem_seg_head=head, pixel_mean=[90.0] * 3, pixel_std=[60.0] * 3
    ).train()


def make_batch():
    """Very different numbers of valid pixels and of regions; the last image has none."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.zeros(IMAGES, SIZE, SIZE, dtype=torch.long)
    labels[0] = torch.randint(0, K, (SIZE, SIZE), generator=generator)
    labels[1, :, 16:] = 3
    labels[2] = 255
    labels[2, 3:7, 3:9] = 1
    labels[3] = 255
    images = torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return [{"image": x, "sem_seg": y} for x, y in zip(images, labels, strict=True)]


class NoOptimizer(torch.optim.SGD):
    """Leaves weights and gradients as they are."""

    def step(self, closure=None):
        pass


def gradients(model, batch, parts, dtype=None):
    """The gradients and the logged losses of one step in so many parts."""
    optimizer = NoOptimizer(model.parameters(), lr=1.0)
    trainer = StepTrainer(model, [batch], optimizer, "cpu", dtype=dtype, accumulation_steps=parts)
    with EventStorage() as storage:
        trainer.run_step()
        logged = {key: value for key, (value, _) in storage.latest().items() if "loss" in key}
    return {key: p.grad for key, p in model.named_parameters()}, logged


def assert_close(actual, expected):
    """Equal but for float32, in which losses are computed, relative to each gradient's norm."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert value.norm() > 0, key
        # What attention hardly depends on has a gradient of about 1e-6, which is rounding's size.
        assert (actual[key] - value).norm() < 1e-5 * value.norm() + 1e-8, key


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_parts_have_the_gradient_and_the_losses_of_the_batch(name, parts):
    model, batch = make_model(name), make_batch()
    sum(model(batch).values()).backward()
    expected = {key: p.grad.clone() for key, p in model.named_parameters()}
    losses = {key: value.item() for key, value in model(batch).items()}
    for number in (1, parts):
        actual, logged = gradients(model, batch, number)
        assert_close(actual, expected)
        assert {key: logged[key] for key in losses} == pytest.approx(losses, abs=1e-5)
        assert logged["total_loss"] == pytest.approx(sum(losses.values()), abs=1e-5)


def test_a_plain_mean_of_the_parts_is_something_else(monkeypatch):
    """What the weights are for: the check above fails without them."""
    model, batch = make_model("regions"), make_batch()
    expected, _ = gradients(model, batch, 1)
    expected = {key: value.clone() for key, value in expected.items()}
    monkeypatch.setattr(
        "longtail.engine.training.step.part_weights", lambda _, parts: [{} for _ in parts]
    )
    actual, _ = gradients(model, batch, 4)
    for part in ("predictor.weight", "region_classifier.weight", "auxiliary.predictor.weight"):
        errors = [(actual[k] - v).abs().max() for k, v in expected.items() if k.endswith(part)]
        assert errors and min(errors) > 1e-2


def test_weights_are_shares_of_pixels_and_of_regions():
    """By hand: an image of 1024 valid pixels, one of 24, and what classes they show."""
    batch = make_batch()[1:3]
    first, second = part_weights(make_model("regions"), [batch[:1], batch[1:]])
    for name in ("loss_sem_seg", "loss_auxiliary"):
        assert first[name].item() == pytest.approx(1024 / 1048)
        assert second[name].item() == pytest.approx(24 / 1048)
    # Two regions; and one, whose rows 3..6 and columns 3..8 show in the 8 x 8 cells (4, 4), (4, 8).
    assert first["loss_region"].item() == pytest.approx(2 / 3)
    assert second["loss_region"].item() == pytest.approx(1 / 3)
    # Weighted: halves of 1024 pixels with weights 0.1 and 3, against 24 with weight 2.
    total = 512 * 0.1 + 512 * 3.0 + 24 * 2.0
    first, second = part_weights(make_model("weighted"), [batch[:1], batch[1:]])
    assert second["loss_sem_seg"].item() == pytest.approx(24 * 2.0 / total)


def test_images_of_other_sizes_are_padded_as_the_segmentor_pads_them():
    """30 x 27 is padded with ignored pixels to 32 x 32."""
    batch = make_batch()[:2]
    batch[1] = {key: value[..., :30, :27] for key, value in batch[1].items()}
    _, second = part_weights(make_model("plain"), [batch[:1], batch[1:]])
    assert second["loss_sem_seg"].item() == pytest.approx(30 * 27 / (1024 + 30 * 27))


def test_regions_are_counted_where_the_padded_image_shows_them():
    """Cells of stride 4 read columns 0, 4, ..; those of 27 columns not padded to 32 would not."""
    first = {**make_batch()[1], "sem_seg": torch.zeros(SIZE, SIZE, dtype=torch.long)}
    second = {"image": first["image"][:, :30, :27], "sem_seg": first["sem_seg"][:30, :27].clone()}
    second["sem_seg"][0, 4] = 1
    weights = part_weights(make_model("regions"), [[first], [second]])
    assert [w["loss_region"].item() for w in weights] == pytest.approx([1 / 3, 2 / 3])


def test_a_batch_without_valid_pixels_has_no_gradient():
    model, batch = make_model("regions"), make_batch()
    empty = [{**record, "sem_seg": torch.full((SIZE, SIZE), 255)} for record in batch]
    actual, logged = gradients(model, empty, 2)
    assert all(gradient.abs().max() == 0 for gradient in actual.values())
    assert set(logged.values()) == {0.0}


def worker(rank: int, folder: Path) -> None:
    batch = make_batch()
    # Rank 1 has hardly anything valid: neither its parts nor it count as much as rank 0.
    model = DistributedDataParallel(make_model("regions"))
    exchanges = []
    model.register_comm_hook(exchanges, counted)
    actual, logged = gradients(model, batch[2 * rank : 2 * rank + 2], 2)
    if rank == 0:
        torch.save((actual, logged, len(exchanges)), folder / "result.pth")


def counted(exchanges, bucket):
    """DistributedDataParallel's own exchange, counted."""
    exchanges.append(bucket.index())
    return allreduce_hook(None, bucket)


def test_parts_in_two_processes(tmp_path):
    run_in_two_processes(worker, tmp_path)
    actual, logged, exchanges = torch.load(tmp_path / "result.pth", weights_only=False)
    actual = {key.removeprefix("module."): value for key, value in actual.items()}
    expected, losses = gradients(make_model("regions"), make_batch(), 1)
    assert_close(actual, expected)
    assert logged == pytest.approx(losses, abs=1e-5)
    # Of one small bucket, once a step.
    assert exchanges == 1


def test_mixed_precision_in_parts():
    """bfloat16 has 8 bits: gradients are off by about 2^-8 of their size."""
    model, batch = make_model("regions"), make_batch()
    expected, _ = gradients(model, batch, 1, dtype="bfloat16")
    expected = {key: value.clone() for key, value in expected.items()}
    actual, _ = gradients(model, batch, 4, dtype="bfloat16")
    for key, value in expected.items():
        assert (actual[key] - value).norm() < 0.02 * value.norm(), key
    # float16 has 11 bits, and its scale is taken back before the step.
    expected = {key: value.clone() for key, value in gradients(model, batch, 1)[0].items()}
    scaled, _ = gradients(model, batch, 4, dtype="float16")
    for key in (k for k in expected if "predictor" in k or "region_classifier" in k):
        assert (scaled[key] - expected[key]).norm() < 0.01 * expected[key].norm(), key
    assert all(gradient.isfinite().all() for gradient in scaled.values())


def test_a_loss_of_the_users_own_counts_by_images():
    class Loss(nn.Module):
        def forward(self, logits, labels):
            return logits.square().mean()

    torch.manual_seed(0)
    model = make_model("plain")
    model.sem_seg_head.pixel_loss = Loss()
    batch = make_batch()
    assert part_weights(model, split_batch(batch, 2))[0].keys() == {"loss_auxiliary"}
    sum(model(batch).values()).backward()
    expected = {key: p.grad.clone() for key, p in model.named_parameters()}
    assert_close(gradients(model, batch, 2)[0], expected)


def test_detectors_train_in_parts(tmp_path):
    model = Trainer.build_model(detector_config(tmp_path))
    batch = detector_inputs(2)
    assert part_weights(model, split_batch(batch, 2)) == [{}, {}]
    torch.manual_seed(0)
    actual, _ = gradients(model, batch, 2)
    actual = {key: value.clone() for key, value in actual.items()}
    # What a step draws follows from its seed, iteration and rank: 0 each.
    seed_generators(derive_seed(0, 0, 0))
    model.zero_grad()
    with EventStorage():
        for record in batch:
            (sum(model([record]).values()) / 2).backward()
    expected = {key: p.grad for key, p in model.named_parameters()}
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, atol=1e-6, rtol=1e-4)
    assert min(expected[f"roi_heads.box_predictor.{n}.weight"].abs().max() for n in LAYERS) > 1e-3


def test_two_means_in_one_loss_are_refused():
    model = make_model("plain")
    model.sem_seg_head.pixel_loss = DiceLoss(with_cross_entropy=True)
    with raises_naming(ValueError, "SOLVER.ACCUMULATION_STEPS", "1", "dice_cross_entropy"):
        gradients(model, make_batch(), 2)
    gradients(model, make_batch(), 1)


@pytest.mark.parametrize("parts", [3, 8])
def test_a_batch_that_cannot_be_divided(parts):
    steps = f"SOLVER.ACCUMULATION_STEPS {parts}"
    with raises_naming(ValueError, steps, "4", "SOLVER.IMS_PER_BATCH"):
        split_batch(make_batch(), parts)


def test_parts_keep_order_and_number():
    assert split_batch([{"i": i} for i in range(6)], 3) == [
        [{"i": 0}, {"i": 1}],
        [{"i": 2}, {"i": 3}],
        [{"i": 4}, {"i": 5}],
    ]


def test_no_parts(tmp_path):
    with raises_naming(ValueError, "SOLVER.ACCUMULATION_STEPS", ">= 1", "0"):
        StepTrainer(nn.Linear(1, 1), [], None, "cpu", accumulation_steps=0)


def test_the_config_key_reaches_the_step(configure):
    trainer = Trainer(configure("SOLVER.ACCUMULATION_STEPS", 2, "SOLVER.IMS_PER_BATCH", 4))
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with EventStorage():
        trainer._trainer.run_step()
    assert seen == [2, 2]
