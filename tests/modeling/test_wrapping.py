# SPDX-License-Identifier: Apache-2.0
"""Heads around other heads: names in checkpoints, and the hook on the pixel classifier."""

import copy
import logging

import pytest
import torch
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from longtail.config import load_config
from longtail.engine.checkpoint import Checkpointer
from longtail.modeling.sem_seg.wrapping import SemSegHeadWrapper
from tests.messages import raises_naming


class Plain(nn.Module):
    """A child's name begins as a wrapper's does."""

    ignore_value = 7

    def __init__(self, runs: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 1)
        self.outermost = nn.Linear(1, 1)
        self.predictor = nn.Sequential(nn.Dropout(0.0), nn.Conv2d(4, 3, 1))
        self.runs = runs

    def forward(self, features, targets=None):
        x = self.layer(features)
        return sum(self.predictor(x) for _ in range(self.runs)), {}


class Inner(SemSegHeadWrapper):
    config_node, own_module = "REGION_REBALANCE", "inner"

    def __init__(self, head, classifier="predictor"):
        super().__init__(head, classifier)
        self.inner = nn.Linear(self.pixel_channels, 2)

    def forward(self, features, targets=None):
        return self.base_head(features, targets)


class Outer(Inner):
    config_node, own_module = "DISALIGN", "outer"

    def __init__(self, head, classifier="predictor"):
        SemSegHeadWrapper.__init__(self, head, classifier)
        self.outer = nn.Linear(self.pixel_channels, 1)


OWN = {1: {"inner.weight", "inner.bias"}, 2: {"outer.weight", "outer.bias"}}


def build(depth: int, runs: int = 1) -> nn.Module:
    """No, one or two wrappers."""
    head = Plain(runs)
    for wrapper in (Inner, Outer)[:depth]:
        head = wrapper(head)
    return head


def own(depth: int) -> set[str]:
    return set().union(*(OWN[level] for level in range(1, depth + 1)))


@pytest.mark.parametrize("depth", [1, 2])
def test_the_wrapped_heads_tensors_keep_their_names(depth):
    names = set(Plain().state_dict())
    assert set(build(depth).state_dict()) == names | own(depth)
    # Also as a part of a model.
    model = nn.ModuleDict({"base_head": build(depth)})
    assert set(model.state_dict()) == {f"base_head.{name}" for name in names | own(depth)}


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("source", [0, 1, 2])
def test_checkpoints_load_into_each_other(source, target):
    torch.manual_seed(source)
    given = nn.ModuleDict({"sem_seg_head": build(source)}).state_dict()
    model = nn.ModuleDict({"sem_seg_head": build(target)})
    result = model.load_state_dict(given, strict=False)
    prefix = "sem_seg_head."
    assert set(result.missing_keys) == {prefix + name for name in own(target) - own(source)}
    assert set(result.unexpected_keys) == {prefix + name for name in own(source) - own(target)}
    loaded = model.state_dict()
    shared = given.keys() & loaded.keys()
    assert len(shared) >= 6 and all(torch.equal(given[name], loaded[name]) for name in shared)


def test_what_lacks_in_a_checkpoint_is_named_as_there():
    model = nn.ModuleDict({"sem_seg_head": build(2)})
    state = model.state_dict()
    del state["sem_seg_head.predictor.1.bias"], state["sem_seg_head.inner.bias"]
    state["sem_seg_head.predictor.2.bias"] = state["sem_seg_head.stranger"] = torch.zeros(1)
    result = model.load_state_dict(state, strict=False)
    expected = {"sem_seg_head.predictor.1.bias", "sem_seg_head.inner.bias"}
    assert set(result.missing_keys) == expected
    expected = {"sem_seg_head.predictor.2.bias", "sem_seg_head.stranger"}
    assert set(result.unexpected_keys) == expected


@pytest.mark.parametrize("depth", [1, 2])
def test_a_tensor_of_another_shape_is_named_as_there(depth, tmp_path, caplog):
    model = nn.ModuleDict({"sem_seg_head": build(depth)})
    Checkpointer(model, str(tmp_path)).save("model")
    model["sem_seg_head"].predictor[1].weight = nn.Parameter(torch.zeros(5, 4, 1, 1))
    with caplog.at_level(logging.WARNING):
        Checkpointer(model).load(str(tmp_path / "model.pth"))
    assert (
        "'sem_seg_head.predictor.1.weight' to the model due to incompatible shapes" in caplog.text
    )
    # Nothing else is there of the head inside.
    assert not hasattr(model["sem_seg_head"], "runs") and not hasattr(model, "predictor")


@pytest.mark.parametrize("depth", [1, 2])
def test_a_wrapper_can_be_copied(depth):
    head, x = build(depth), torch.randn(1, 2, 3, 3)
    other = copy.deepcopy(head)
    expected = head(x)[0]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    assert torch.equal(other(x)[0], expected)
    other.load_state_dict(head.state_dict())
    assert not other(x)[0].any()


@pytest.mark.parametrize("depth", [1, 2])
def test_the_hook_sees_and_replaces(depth):
    head, x = build(depth), torch.randn(1, 2, 3, 3)
    expected, seen = head(x)[0], []
    with head.classifier_hook(lambda entered, output: seen.extend((entered, output))):
        assert torch.equal(head(x)[0], expected)
    plain = head.base_head if depth == 1 else head.base_head.base_head
    assert torch.equal(seen[0], plain.layer(x)) and torch.equal(seen[1], expected)
    with head.classifier_hook(lambda entered, output: 2 * output):
        assert torch.equal(head(x)[0], 2 * expected)
    # Afterwards nothing is left.
    assert torch.equal(head(x)[0], expected)


def test_the_hook_is_gone_after_an_error():
    head, x = build(1), torch.randn(1, 2, 3, 3)
    with pytest.raises(KeyboardInterrupt), head.classifier_hook(lambda *_: 1 / 0):
        raise KeyboardInterrupt
    head(x)


@pytest.mark.parametrize("runs", [0, 2])
def test_a_classifier_that_does_not_run_once(runs):
    head = build(2, runs)
    parts = ("'predictor'", f"{runs} times", "MODEL.DISALIGN.PIXEL_CLASSIFIER")
    with raises_naming(RuntimeError, *parts), head.classifier_hook(lambda *_: None):
        head(torch.randn(1, 2, 3, 3))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        # No such module, with those that there are; one without a convolution.
        ("predicter", ["Plain", "'predicter'", "layer, outermost, predictor"]),
        ("outermost", ["'outermost'", "Linear"]),
    ],
)
def test_bad_pixel_classifiers_are_named(name, parts):
    with raises_naming(ValueError, "MODEL.DISALIGN.PIXEL_CLASSIFIER", *parts):
        Outer(build(1), name)


def test_attributes_come_from_the_head_inside():
    head = build(2)
    assert (head.ignore_value, head.pixel_channels) == (7, 4)


@SEM_SEG_HEADS_REGISTRY.register()
class Second(Inner):
    """A second stage."""

    trained_module_names = ("inner",)


SEM_SEG_HEADS_REGISTRY.register(Outer)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Outer", ["Outer itself"]),
        ("Second", ["Second", "MODEL.SEM_SEG_HEAD.NAME"]),
        ("FCNHed", ["'FCNHed'", "FCNHead"]),
    ],
)
def test_heads_that_cannot_be_wrapped(name, parts):
    cfg = load_config("", ["MODEL.DISALIGN.BASE_HEAD_NAME", name])
    with raises_naming(ValueError, "MODEL.DISALIGN.BASE_HEAD_NAME", *parts):
        Outer.build_base_head(cfg, {})
