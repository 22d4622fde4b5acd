# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters: their formula, what is trained, checkpoints, and merged weights."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from longtail.config import get_cfg, load_config
from longtail.engine.checkpoint import Checkpointer, CompleteCheckpointer
from longtail.engine.deployment.folding import baseline_config, fold
from longtail.engine.training.solver import build_optimizer
from longtail.engine.training.stages import frozen_parameters_line, load_second_stage
from longtail.modeling.backbone import TimmBackbone, TimmClassificationBackbone, TimmPlainBackbone
from longtail.modeling.backbone import lora as lora_module
from longtail.modeling.backbone.lora import Lora, check_lora, merge_lora
from tests.messages import raises_naming
from tests.tiny_vit import DINOV2, shrink

pytest.importorskip("peft")
QKV = Lora(r=2, lora_alpha=6.0, target_modules=("qkv", "mlp.fc1"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


def build(lora=QKV, seed=0, **options):
    torch.manual_seed(seed)
    options = {"name": DINOV2, "image_size": 56, "out_blocks": (0, 1, 2, 3), **options}
    return TimmPlainBackbone(**{"neck": "none", "lora": lora, **options})


def disturb(model):
    """Adapters as after a training: B is 0 at the start."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "lora_" in name or ".ls" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


def image_of(side=56, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_a_layer_by_definition():
    layer = disturb(build()).double().model.blocks[1].attn.qkv
    state = layer.state_dict()
    a, b = state["lora_A.default.weight"], state["lora_B.default.weight"]
    assert a.shape == (2, 32) and b.shape == (96, 2)
    x = torch.randn(3, 32, dtype=torch.float64)
    expected = x @ state["base_layer.weight"].T + state["base_layer.bias"] + 6 / 2 * (x @ a.T) @ b.T
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_starts_as_the_model_without_and_trains_adapters_alone(checkpointing):
    plain, tuned = build(lora=None).eval(), build(checkpointing=checkpointing)
    tuned.load_state_dict(plain.state_dict(), strict=False)
    image = image_of()
    assert torch.equal(tuned.eval()(image)["res5"], plain(image)["res5"])
    disturb(tuned).train()(image)["res5"].square().sum().backward()
    for name, parameter in tuned.named_parameters():
        is_adapter = "lora_" in name
        assert parameter.requires_grad == is_adapter, name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == is_adapter, name
    assert {tuned.layer_of(n) for n, p in tuned.named_parameters() if p.requires_grad} == {
        *range(1, 5)
    }


def test_names_in_checkpoints():
    """A layer keeps its names; A and B stand beside them. Back and forth, bit for bit."""
    plain, tuned = build(lora=None), disturb(build())
    state = tuned.state_dict()
    own = [name for name in state if "lora_" not in name]
    assert sorted(own) == sorted(plain.state_dict())
    layers = [f"model.blocks.{i}.{part}" for i in range(4) for part in ("attn.qkv", "mlp.fc1")]
    added = {f"{layer}.lora_{part}.weight" for layer in layers for part in "AB"}
    assert set(state) - set(own) == added
    other = build(seed=3)
    assert other.load_state_dict(state) == ([], [])
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
    missing = build().load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert set(missing) == added


def test_merged():
    """The same function of plain layers, whose names the model without adapters has."""
    tuned = disturb(build()).eval()
    merged = copy.deepcopy(tuned)
    merge_lora(merged)
    assert type(merged.model.blocks[0].attn.qkv) is nn.Linear
    plain = build(lora=None, seed=9).eval()
    plain.load_state_dict(merged.state_dict())
    expected = tuned(image_of())["res5"]
    assert not torch.allclose(expected, build(lora=None).eval()(image_of())["res5"], atol=1e-2)
    torch.testing.assert_close(plain(image_of())["res5"], expected, atol=2e-5, rtol=0)
    # In float64 nothing is rounded.
    tuned, merged = copy.deepcopy(tuned).double(), copy.deepcopy(tuned).double()
    merge_lora(merged)
    image = image_of().double()
    torch.testing.assert_close(merged(image)["res5"], tuned(image)["res5"], atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", [TimmBackbone, TimmClassificationBackbone])
def test_convnext(kind):
    backbone = kind(name="test_convnext", lora=Lora(2, 2.0, ("fc1",)))
    backbone(image_of(96))
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == {"fc1"}


def test_what_is_not_adapted_stays_in_evaluation_mode():
    """Batch normalization, not stochastic depth."""
    backbone = TimmBackbone(name="test_resnet", lora=Lora(2, 2.0, ("conv2",))).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone(image_of(64))
    assert all(torch.equal(tensor, before[n]) for n, tensor in backbone.state_dict().items())


def config(*overrides):
    keys = ["MODEL.META_ARCHITECTURE", "LongTailSemanticSegmentor", "MODEL.DEVICE", "cpu"]
    keys += ["MODEL.BACKBONE.NAME", "TimmPlainBackbone", "MODEL.TIMM.NAME", DINOV2]
    keys += ["MODEL.TIMM.IMAGE_SIZE", 56, "MODEL.TIMM.OUT_BLOCKS", [0, 1, 2, 3]]
    keys += ["MODEL.TIMM.NECK", "none", "MODEL.TIMM.OUT_FEATURES", ["res5"]]
    keys += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "MODEL.SEM_SEG_HEAD.NAME", "LinearHead"]
    keys += ["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res5"], "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    keys += ["MODEL.SEM_SEG_HEAD.AUXILIARY.LOSS_WEIGHT", 0.0, "MODEL.WEIGHTS", ""]
    return load_config("", [*keys, *overrides])


LORA = ["MODEL.TIMM.LORA.ENABLED", True, "MODEL.TIMM.LORA.LORA_ALPHA", 16.0]
FROZEN = ["MODEL.TIMM.FREEZE_AT", 5]


def records():
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (2, 3, 61, 75), generator=generator).float()
    labels = torch.randint(0, 3, (2, 61, 75), generator=generator)
    return [{"image": x, "sem_seg": y} for x, y in zip(images, labels, strict=True)]


@pytest.mark.parametrize("keys", [FROZEN, LORA], ids=["frozen", "lora"])
def test_two_iterations(keys, tmp_path):
    """The frozen stays bit for bit, and the optimizer does not know it; adapters and head move."""
    torch.manual_seed(0)
    cfg = config(*keys, "SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 0.01)
    model = build_model(cfg).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(cfg, model)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(records()).values()).backward()
        optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    head = {name for name in before if not name.startswith("backbone.")}
    adapters = {name for name in before if "lora_" in name}
    assert len(head) == 4 and len(adapters) == (8 if keys is LORA else 0)
    assert moved == head | adapters
    in_groups = {p for group in optimizer.param_groups for p in group["params"]}
    assert in_groups == {p for name, p in model.named_parameters() if name in moved}
    assert set(optimizer.state) == in_groups
    number = sum(p.numel() for p in in_groups)
    assert f"{number:,} parameters are trained" in frozen_parameters_line(model)
    checkpointer = Checkpointer(model, str(tmp_path), optimizer=optimizer)
    checkpointer.save("model_final")
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert saved["frozen"] == ["backbone.model.*"]
    # What a run resumes with, and what it is tested with.
    other = build_model(cfg)
    new_optimizer = build_optimizer(cfg, other)
    Checkpointer(other, str(tmp_path), optimizer=new_optimizer).resume_or_load("", resume=True)
    tested = build_model(cfg)
    CompleteCheckpointer(tested).load(str(tmp_path / "model_final.pth"))
    for reloaded in (other, tested):
        state = reloaded.state_dict()
        assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    old, new = optimizer.state_dict()["state"], new_optimizer.state_dict()["state"]
    assert all(torch.equal(old[i]["exp_avg"], new[i]["exp_avg"]) for i in old)
    if keys is LORA:
        check_export(cfg, model.eval(), tmp_path / "model_final.pth")


def check_export(cfg, model, weights):
    """Folded, the weights are those of the config without adapters, which refuses the others."""
    baseline = baseline_config(cfg)
    assert not baseline.MODEL.TIMM.LORA.ENABLED
    deployed = build_model(baseline).eval()
    for kind in (Checkpointer, CompleteCheckpointer):
        with raises_naming(ValueError, str(weights), "MODEL.TIMM.LORA", "longtail export"):
            kind(deployed).load(str(weights))
    folded = fold(cfg, model)
    assert any("lora_" in name for name in model.state_dict())
    deployed.load_state_dict(folded.state_dict())
    with torch.no_grad():
        expected, own = model(records()), deployed(records())
    for a, b in zip(expected, own, strict=True):
        torch.testing.assert_close(a["sem_seg"], b["sem_seg"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        (["R", 0], ["0", "MODEL.TIMM.LORA.ENABLED"]),
        (["LORA_ALPHA", 0.0], ["> 0", "0.0"]),
        (["TARGET_MODULES", []], [DINOV2, "qkv"]),
        (["TARGET_MODULES", ["qkv", "query"]], ["'query'", DINOV2, "qkv"]),
        (["TARGET_MODULES", ["attn"]], ["'attn'", "Attention", "qkv"]),
    ],
    ids=str,
)
def test_bad_options(keys, parts):
    cfg = config(*LORA, f"MODEL.TIMM.LORA.{keys[0]}", keys[1])
    with raises_naming(ValueError, f"MODEL.TIMM.LORA.{keys[0]}", *parts):
        build_model(cfg)


def test_a_layer_that_is_not_called():
    """BEiT's attention reads the weight of qkv."""
    name, layer = "beit_base_patch16_224", "blocks.0.attn.qkv"
    parts = ("MODEL.TIMM.LORA.TARGET_MODULES", name, layer, "proj")
    with raises_naming(ValueError, *parts):
        build(Lora(2, 2.0, ("qkv",)), name=parts[1], image_size=64, neck="pyramid")


def test_backbones_that_have_no_adapters():
    """They would train as a whole."""
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.TIMM.LORA.ENABLED", True, "MODEL.BACKBONE.NAME", "CifarResNetBackbone"]
    )
    with raises_naming(ValueError, "MODEL.TIMM.LORA.ENABLED", "CifarResNetBackbone"):
        check_lora(cfg, nn.Linear(2, 2))
    adapted = build()
    check_lora(cfg, adapted)


def test_depthwise_convolutions_have_no_low_rank():
    with raises_naming(ValueError, "MODEL.TIMM.LORA.TARGET_MODULES", "'conv_dw'", "groups", "fc1"):
        TimmBackbone(name="test_convnext", lora=Lora(2, 2.0, ("fc1", "conv_dw")))


def test_without_peft(monkeypatch):
    monkeypatch.setattr(lora_module.importlib.util, "find_spec", lambda name: None)
    with raises_naming(ImportError, "MODEL.TIMM.LORA", "peft", "detectron2-longtail[lora]"):
        build()


def test_second_stage_on_adapters(tmp_path):
    """DisAlign starts from the checkpoint with adapters, and nothing of the backbone is trained."""
    model = disturb(build_model(config(*LORA)))
    Checkpointer(model, str(tmp_path)).save("model_final")
    keys = ["MODEL.SEM_SEG_HEAD.NAME", "DisAlignSemSegHead", "MODEL.DISALIGN.BASE_HEAD_NAME"]
    second = build_model(config(*LORA, *keys, "LinearHead", "MODEL.DISALIGN.RHO", 0.0))
    load_second_stage(second, str(tmp_path / "model_final.pth"))
    state, first = second.state_dict(), model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in first.items())
    trained = {name for name, p in second.named_parameters() if p.requires_grad}
    assert trained and all(".calibration." in name for name in trained)
    assert not any(m.training for m in second.backbone.modules())
