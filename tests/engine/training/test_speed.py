# SPDX-License-Identifier: Apache-2.0
"""Memory format and compilation change no function and no name.

Most tests trace with a backend that generates no code: what they are about is what is compiled and
when. One compiles indeed, a single sine, as that takes most of a minute for a network.
"""

import functools

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from longtail.engine import Trainer
from longtail.engine.training.speed import apply_speed_options
from longtail.engine.training.stages import freeze
from tests.messages import raises_naming
from tests.tiny import tiny_config
from tests.tiny_detection import detector_config, detector_inputs

REGIONS = [
    *("MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead", "MODEL.REGION_REBALANCE.BALANCED", False),
    *("MODEL.REGION_REBALANCE.BASE_HEAD_NAME",),
]
DETECTRON2 = [
    *("MODEL.SEM_SEG_HEAD.LOSS_TYPE", "cross_entropy", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 4),
    *("MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [3], "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 8),
    *("MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [1, 2, 3], "INPUT.CROP.ENABLED", False),
    # What dropout draws depends on the memory format.
    *("MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", 0.0),
    *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res5"]),
]
SEGMENTORS = {
    "ours": [],
    "ours with regions": [*REGIONS, "FCNHead"],
    "detectron2's": ["MODEL.SEM_SEG_HEAD.NAME", "DeepLabV3PlusHead", *DETECTRON2],
    "detectron2's with regions": [*REGIONS, "DeepLabV3PlusHead", *DETECTRON2],
}
DETECTORS = {
    "detector": [],
    "second stage": ["MODEL.META_ARCHITECTURE", "DisAlignRCNN"],
}


@pytest.fixture
def configure(tmp_path):
    def get(name, *overrides):
        if name in DETECTORS:
            return detector_config(tmp_path, [*DETECTORS[name], *overrides])
        options = ["MODEL.SEM_SEG_HEAD.DROPOUT", 0.0, *SEGMENTORS[name], *overrides]
        return tiny_config(tmp_path, options)

    return get


@pytest.fixture
def traced(monkeypatch):
    """torch.compile that traces but generates no code."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_inputs(name, size=(64, 96), images=2):
    if name in DETECTORS:
        return detector_inputs(images)
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "sem_seg": torch.randint(0, 3, size, generator=generator),
        }
        for _ in range(images)
    ]


def build_pair(configure, name, *options):
    """A model with these options and one without, with the same weights."""
    torch.manual_seed(0)
    plain = Trainer.build_model(configure(name))
    fast = Trainer.build_model(configure(name, *options))
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast.load_state_dict(plain.state_dict())
    if name == "second stage":
        freeze(plain), freeze(fast)
    return plain, fast


def train_once(model, inputs):
    torch.manual_seed(0)
    model.train().zero_grad()
    for module in model.modules():
        # Statistics of two tiny images blow rounding up to the size of the gradients.
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return losses, gradients


@torch.no_grad()
def predict(model, inputs):
    outputs = model.eval()(inputs)
    if "sem_seg" in outputs[0]:
        return [output["sem_seg"] for output in outputs]
    return [output["instances"].scores for output in outputs]


def assert_same_function(name, plain, fast):
    inputs = make_inputs(name)
    for expected, actual in zip(train_once(plain, inputs), train_once(fast, inputs), strict=True):
        assert actual.keys() == expected.keys() and expected
        for key, value in expected.items():
            assert (actual[key] - value).norm() < 1e-4 * value.norm() + 1e-7, key
    for expected, actual in zip(predict(plain, inputs), predict(fast, inputs), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*SEGMENTORS, *DETECTORS])
def test_channels_last_is_the_same_function(configure, name):
    plain, fast = build_pair(configure, name, "MODEL.CHANNELS_LAST", True)
    kernels = [p for p in fast.backbone.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert_same_function(name, plain, fast)


def test_maps_stay_in_channels_last(configure):
    """What the format is for: no layer turns the maps around."""
    model = Trainer.build_model(configure("ours", "MODEL.CHANNELS_LAST", True)).eval()
    seen = []
    model.sem_seg_head.predictor.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    predict(model, make_inputs("ours"))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_logits_have_their_channels_first_in_the_loss(configure):
    """A softmax would copy them, as large as the image."""
    model = Trainer.build_model(configure("ours", "MODEL.CHANNELS_LAST", True))
    seen = []
    model.sem_seg_head.pixel_loss.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    train_once(model, make_inputs("ours"))
    assert seen and all(x.shape[1] > 1 and x.is_contiguous() for x in seen)


@pytest.mark.parametrize("name", [*SEGMENTORS, *DETECTORS])
def test_compiled_is_the_same_function(configure, name, traced):
    plain, fast = build_pair(configure, name, "MODEL.COMPILE", True, "MODEL.CHANNELS_LAST", True)
    assert_same_function(name, plain, fast)


def test_compiled_models_take_images_of_any_size(configure, traced):
    plain, fast = build_pair(configure, "ours with regions", "MODEL.COMPILE", True)
    for size in ((64, 64), (70, 101), (65, 200)):
        inputs = make_inputs("ours", size)
        expected, actual = (train_once(model, inputs)[0] for model in (plain, fast))
        for key, value in expected.items():
            torch.testing.assert_close(actual[key], value, atol=1e-5, rtol=1e-5, msg=key)
        assert predict(fast, inputs)[0].shape[1:] == size


def test_training_alone_is_compiled(configure, monkeypatch):
    """Test images have many sizes, each of which would be compiled for itself."""
    used = []

    def compile(function, **_):
        def compiled(*args):
            used.append(function.__name__)
            return function(*args)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    model = Trainer.build_model(configure("ours with regions", "MODEL.COMPILE", True))
    used.clear()
    predict(model, make_inputs("ours"))
    assert used == []
    train_once(model, make_inputs("ours"))
    assert used == ["forward", "stages"]


def test_a_compiled_model_trains_in_mixed_precision(configure, traced):
    plain, fast = build_pair(configure, "ours with regions", "MODEL.COMPILE", True)
    inputs = make_inputs("ours")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, actual = (train_once(model, inputs)[0] for model in (plain, fast))
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, atol=1e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", [*SEGMENTORS, *DETECTORS])
def test_bfloat16_trains_every_model(configure, name):
    model = Trainer.build_model(configure(name))
    if name == "second stage":
        freeze(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, gradients = train_once(model, make_inputs(name))
    assert all(loss.isfinite() for loss in losses.values())
    assert gradients and all(gradient.isfinite().all() for gradient in gradients.values())


class Sine(nn.Module):
    """The function that the check of the compiler has compiled: its code is there already."""

    def forward(self, x):
        return x.sin() + 1


class OnlyBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Sine()


def test_compilation_indeed(configure, monkeypatch):
    """Code is generated, and a compiled backbone is the backbone."""
    # Neither headers for many kernels nor trials of vector instructions: most of a minute.
    monkeypatch.setattr(torch._inductor.config, "cpp_cache_precompile_headers", False)
    monkeypatch.setattr(torch._inductor.config.cpp, "vec_isa_ok", False)
    model, x = OnlyBackbone().train(), torch.arange(4.0)
    eager = model.backbone.forward
    apply_speed_options(configure("ours", "MODEL.COMPILE", True), model)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(x), x.sin() + 1, atol=1e-6, rtol=0)
    assert model.backbone.forward != eager


def test_where_nothing_can_be_compiled(configure, monkeypatch):
    def fail(function, **options):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", fail)
    with raises_naming(ValueError, "MODEL.COMPILE", "cpu", "(no C++ compiler)", "False"):
        Trainer.build_model(configure("ours", "MODEL.COMPILE", True))


def test_a_model_without_a_backbone(configure):
    with raises_naming(ValueError, "MODEL.COMPILE", "backbone", "Linear", "False"):
        apply_speed_options(configure("ours", "MODEL.COMPILE", True), nn.Linear(1, 1))
