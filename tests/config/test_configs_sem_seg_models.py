# SPDX-License-Identifier: Apache-2.0
"""The models of the semantic segmentation configs: parameters, one step, and the optimizer."""

import re

import pytest
import torch
from detectron2.config import CfgNode

from longtail.config import load_config
from longtail.engine import Trainer
from tests.config.common import CONFIGS, built, each, loaded, stem_of
from tests.config.test_configs_sem_seg import BEIT, CNN, OTHERS, ROWS, SWIN

# Millions of parameters with 150 classes. Heads are counted without auxiliary head and OCR's first
# stage; Swin with the normalization of its outputs, BEiT with its neck.
HEADS = {"fcn": 23.673, "pspnet": 23.151, "deeplabv3plus": 17.765, "upernet": 40.590}
HEADS |= {"upernet_swin_T": 31.497, "upernet_swin_B": 33.316, "upernet_beit_L": 120.765}
HEADS |= {"ocrnet_HRNet_W18": 2.506, "ocrnet_HRNet_W48": 4.580}
BACKBONES = {"R_50c": 23.527, "R_101c": 42.519, "S_101": 46.226}
BACKBONES |= {"HRNet_W18": 9.562, "HRNet_W48": 65.325}
BACKBONES |= {"swin_T": 27.521, "swin_B": 86.880, "beit_L": 318.108}


def millions(module: torch.nn.Module, without: tuple[str, ...] = ()) -> float:
    named = module.named_parameters()
    return sum(p.numel() for name, p in named if not name.startswith(without)) / 1e6


@each(ROWS)
def test_builds_the_model(name):
    stem = stem_of(name)
    # Class weights and priors are computed when they are built.
    weighs = stem.startswith(("reweighted", "balanced_softmax")) or "_disalign" in stem
    device = "cpu" if weighs else "meta"
    cfg = load_config(
        f"{CONFIGS}/{name}.yaml", ["MODEL.DEVICE", device, "MODEL.TIMM.PRETRAINED", ""]
    )
    if "10k" in cfg.DATASETS.TRAIN[0]:
        # Its class statistics do not come with the project.
        cfg.MODEL.REGION_REBALANCE.BALANCED = False
    model = built(cfg)
    head = model.sem_seg_head
    if "_disalign" in stem:
        assert len(head.calibration.alpha) == len(head.class_weights) == 150
        head = head.base_head
    if "_rr" in stem or stem.startswith("rr_"):
        assert head.region_classifier.weight.shape[0] == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        head = head.base_head
    if "/ablations/" in name:
        return
    count = millions(head, ("auxiliary", "coarse"))
    classes, channels = head.predictor.weight.shape[:2]
    count += (150 - classes) * (channels + 1) / 1e6
    # The most specific entry.
    expected = [HEADS[key] for key in sorted(HEADS, key=len) if stem.startswith(key)][-1]
    assert count == pytest.approx(expected, abs=6e-4)
    backbone = next(value for key, value in BACKBONES.items() if f"_{key}_" in stem)
    assert millions(model.backbone) == pytest.approx(backbone, abs=6e-4)


# A vision transformer of C channels has 12 C^2 + 13 C parameters a block, DINOv2's 2 C more for
# LayerScale, CLIP's a normalization before the blocks; ConvNeXt's number is timm's without its
# classifier of 1000 classes and the normalization before that.
VIT_S = 12 * (12 * 384**2 + 15 * 384) + (37**2 + 2) * 384 + (3 * 14**2 + 1) * 384 + 2 * 384
LINEAR = 2 * 384 + 150 * 385
CLIP_B = 12 * (12 * 768**2 + 13 * 768) + (32**2 + 2) * 768 + 3 * 16**2 * 768 + 2 * 768
CLIP_NECK = 3 * (4 * 768**2 + 768) + 2 * 768
CONVNEXT_T = 28_589_128 - 1000 * 769 - 2 * 768


@each(OTHERS)
def test_builds_the_foundation_models(name):
    """Adapters of rank 8 on qkv have 8 (384 + 3 384) parameters each."""
    if name.endswith("_lora"):
        pytest.importorskip("peft")
    options = ["MODEL.DEVICE", "cpu" if name.endswith("_disalign") else "meta"]
    model = built(load_config(f"{CONFIGS}/{name}.yaml", [*options, "MODEL.TIMM.PRETRAINED", ""]))
    number = sum(p.numel() for p in model.backbone.parameters())
    trained = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    if "linear" in name:
        adapters = 12 * 8 * (384 + 3 * 384) if name.endswith("_lora") else 0
        assert (number, trained) == (VIT_S + adapters, adapters)
        head = getattr(model.sem_seg_head, "base_head", model.sem_seg_head)
        assert sum(p.numel() for p in head.parameters()) == LINEAR
    else:
        assert number == trained == (CLIP_B + CLIP_NECK if "clip" in name else CONVNEXT_T)


# By config: a small timm model of the same kind.
FAMILIES = {
    "fcn_R_50c": "resnet18d",
    "pspnet_R_50c": "resnet18d",
    "deeplabv3plus_R_50c": "resnet18d",
    "upernet_R_50c": "resnet18d",
    "deeplabv3plus_S_101": "resnest14d",
    "ocrnet_HRNet_W18": "hrnet_w18_small",
    "upernet_swin_T": "swin_tiny_patch4_window7_224",
    "upernet_beit_L": "beit_base_patch16_224",
}
HEAD = "MODEL.SEM_SEG_HEAD"
TINY = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", ""]
TINY += ["MODEL.TIMM.IMAGE_SIZE", 64, "MODEL.TIMM.OUT_BLOCKS", [0, 1, 2, 3]]
TINY += [f"{HEAD}.CONVS_DIM", 8, f"{HEAD}.OCR_CHANNELS", 8, f"{HEAD}.AUXILIARY.CONVS_DIM", 8]


def tiny_model(family: str, *overrides: object) -> tuple[CfgNode, torch.nn.Module]:
    """The config of ADE20K with a small model, and that model."""
    options = [*TINY, "MODEL.TIMM.NAME", FAMILIES[family], *overrides]
    cfg = load_config(f"{CONFIGS}/ADE20K/{family}_160k.yaml", options)
    torch.manual_seed(0)
    return cfg, Trainer.build_model(cfg)


def batch_of(size: tuple[int, int]) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(151, (2, *size), generator=generator)
    labels[labels == 150] = 255
    images = torch.randint(256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    return [{"image": i, "sem_seg": t} for i, t in zip(images, labels, strict=True)]


@pytest.mark.parametrize("branch", [False, True], ids=["baseline", "region rebalance"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_training_step(family, branch):
    base = loaded(f"ADE20K/{family}_160k").MODEL.SEM_SEG_HEAD.NAME
    wrapped = [f"{HEAD}.NAME", "RegionRebalanceHead", "MODEL.REGION_REBALANCE.BASE_HEAD_NAME", base]
    cfg, model = tiny_model(family, *(wrapped if branch else []))
    optimizer = Trainer.build_optimizer(cfg, model)
    classifiers = {n: p.clone() for n, p in model.named_parameters() if "predictor" in n}
    batch = batch_of((60, 64))
    losses = model(batch)
    expected = {"loss_sem_seg", "loss_coarse" if "ocrnet" in family else "loss_auxiliary"}
    assert losses.keys() == expected | ({"loss_region"} if branch else set())
    sum(losses.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    changed = dict(model.named_parameters())
    assert classifiers and not any(torch.equal(changed[n], p) for n, p in classifiers.items())
    assert all(torch.isfinite(parameter).all() for parameter in changed.values())
    with torch.no_grad():
        (result,) = model.eval()([{"image": batch[0]["image"], "height": 30, "width": 32}])
    assert result["sem_seg"].shape == (150, 30, 32)


@pytest.mark.parametrize("family", ["fcn_R_50c", "upernet_swin_T", "upernet_beit_L"])
def test_weight_decay_and_learning_rates(family):
    """As in mmsegmentation, see benchmarks/peer_optimizer.py.

    Of CNNs all parameters decay; of Swin all but the backbone's norms and tables; of BEiT those of
    two dimensions or more.
    """
    cfg, model = tiny_model(family)
    groups = Trainer.build_optimizer(cfg, model).param_groups
    found = {p: (group["weight_decay"], group["lr"]) for group in groups for p in group["params"]}
    recipe = {"fcn": CNN, "swin": SWIN, "beit": BEIT}[re.search("fcn|swin|beit", family)[0]]
    named = dict(model.named_parameters())
    assert set(found) == set(named.values())
    for name, parameter in named.items():
        decays = parameter.ndim > 1 if recipe is BEIT else True
        if recipe is SWIN and name.startswith("backbone."):
            decays = not re.search(r"norm|relative_position_bias_table", name)
        # Depth 0 is the embedding, 1 .. 4 the blocks; everything else keeps its rate.
        depth = 5
        if recipe is BEIT and name.startswith("backbone.model."):
            block = re.match(r"backbone\.model\.blocks\.(\d+)\.", name)
            depth = int(block[1]) + 1 if block else 0
        rate = recipe["SOLVER.BASE_LR"] * recipe["SOLVER.LAYER_DECAY"] ** (5 - depth)
        decay = recipe["SOLVER.WEIGHT_DECAY"] if decays else 0.0
        assert found[parameter] == pytest.approx((decay, rate), rel=1e-12), name
