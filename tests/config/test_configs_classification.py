# SPDX-License-Identifier: Apache-2.0
"""The image classification configs: recipes, and what each method changes."""

import math
import re

import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from longtail.config import load_config
from longtail.data.datasets.digits_lt import CLASSES as DIGITS
from longtail.data.synthetic.classification import ClassificationConfig
from longtail.engine import Trainer
from longtail.engine.training.solver import build_lr_scheduler
from longtail.losses import IMAGES, loss_names
from tests.config.common import (
    CONFIGS,
    assert_values,
    differences,
    each,
    flat,
    leaves_in,
    loaded,
    stem_of,
)

# By folder: classes, training images, epochs of the first stages (by ending) and of the second.
DATA = {
    "ImageNet-LT": (1000, 115_846, {"": 90}, 10),
    "iNaturalist2018": (8142, 437_513, {"_90e": 90, "_200e": 200}, 30),
    "Places-LT": (365, 62_500, {"": 30}, 10),
}
SMALL = ("digits-LT", "synthetic-LT")
# ImageNet's training images without the 20 of each class that ImageNet-LT validates on.
BALANCED_IMAGES = 1_281_167 - 20 * 1000
PUBLISHED = leaves_in(*DATA)
ABLATIONS = [name for name in PUBLISHED if "/ablations/" in name]
SETS = {
    "ImageNet-LT": ("imagenet_lt_train", "imagenet_lt_test", "imagenet_full_train"),
    "iNaturalist2018": ("inaturalist2018_train", "inaturalist2018_val", ""),
    "Places-LT": ("places_lt_train", "places_lt_test", ""),
    "digits-LT": ("digits_lt_train", "digits_lt_test", "digits_lt_balanced"),
    "synthetic-LT": ("synthetic_lt_train", "synthetic_lt_test", "synthetic_lt_balanced"),
}

# What a config sets, by what its name has after the backbone, or linear.
DISALIGN = {"ARCHITECTURE": "DisAlignImageClassifier"}
CRT = {"ARCHITECTURE": "RetrainedImageClassifier", "SAMPLER": "ClassBalanced"}
BOUND = {"ARCHITECTURE": "RetrainedImageClassifier"}
LOSSES = ("reweighted_cross_entropy", "class_balanced", "focal", "balanced_softmax", "seesaw")
LOSSES += ("eql", "eqlv2", "bags")
BENCHMARK = {
    "": {},
    "longer": {},
    "cosine": {"TYPE": "cosine"},
    "disalign": DISALIGN | {"RHO": 1.2},
    "cosine_disalign": DISALIGN | {"RHO": 1.5, "TYPE": "cosine"},
    "crt": CRT,
    "cosine_crt": CRT | {"TYPE": "cosine"},
    "lws": {"ARCHITECTURE": "ScaledImageClassifier", "SAMPLER": "ClassBalanced"},
    "bound": BOUND,
    "ncm": {"METHOD": "ncm"},
    "tau_norm": {"METHOD": "tau_norm"},
    "logit_adjustment": {"METHOD": "logit_adjustment"},
    "class_balanced_sampling": {"SAMPLER": "ClassBalanced"},
    "square_root_sampling": {"SAMPLER": "SquareRoot"},
    "ldam_drw": {"LOSS": "ldam_drw", "TYPE": "cosine"},
    **{loss: {"LOSS": loss} for loss in LOSSES},
}
# On ImageNet-LT these are samplers, and there are bounds of their features.
SAMPLERS = {
    "class_balanced": {"SAMPLER": "ClassBalanced"},
    "square_root": {"SAMPLER": "SquareRoot"},
}
SAMPLERS |= {"class_balanced_bound": BOUND, "square_root_bound": BOUND}
KEYS = {
    "ARCHITECTURE": ("MODEL.META_ARCHITECTURE", "ImageClassifier"),
    "RHO": ("MODEL.DISALIGN.RHO", 0.8),
    "SAMPLER": ("DATALOADER.SAMPLER_TRAIN", ""),
    "METHOD": ("MODEL.POST_HOC.METHOD", ""),
    "LOSS": ("MODEL.CLASSIFIER.LOSS", "cross_entropy"),
    "TYPE": ("MODEL.CLASSIFIER.TYPE", "linear"),
}


def values_of(name: str) -> dict:
    """Return what the name of a config says, by key."""
    folder, stem = name.split("/")
    method = re.sub(r"^(linear|[RX]_\d+(_\d+e)?)_?", "", stem)
    said = (BENCHMARK if folder in SMALL else BENCHMARK | SAMPLERS)[method]
    values = {key: said.get(short, default) for short, (key, default) in KEYS.items()}
    values["DATALOADER.SAMPLER_TRAIN"] += "TrainingSampler"
    train, test, balanced = SETS[folder]
    bound = stem.endswith("_bound")
    values["DATASETS.TRAIN"] = (balanced if bound else train,)
    # Figure 1 is of the val split.
    test = "imagenet_lt_val" if bound and folder == "ImageNet-LT" else test
    return values | {"DATASETS.TEST": (test,)}


@each([name for name in PUBLISHED if name not in ABLATIONS])
def test_says_what_its_name_says(name):
    folder, stem = name.split("/")
    kind, depth = stem.split("_")[:2]
    network = f"resnet{depth}" if kind == "R" else f"resnext{depth}_32x4d"
    network += ".tv_in1k" if folder == "Places-LT" else ""
    data = {"MODEL.TIMM.NAME": network, "MODEL.CLASSIFIER.NUM_CLASSES": DATA[folder][0]}
    assert_values(name, values_of(name) | data)


def stage_2_of_kang(name: str) -> bool:
    """Whether a config has the schedule of the release of Kang et al.: cRT or LWS."""
    return name.endswith(("_crt", "_lws", "crt_generalized_reweight"))


@each(PUBLISHED)
def test_recipe_of_the_paper(name):
    """Section A.2; weight decay as in the configs of Kang et al., whom it follows."""
    folder = name.split("/")[0]
    decay = 1e-4 if folder == "iNaturalist2018" else 5e-4
    places = folder == "Places-LT"
    kang = stage_2_of_kang(name) and not places
    expected = {
        "MODEL.BACKBONE.NAME": "TimmClassificationBackbone",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.TIMM.FREEZE_AT": 4 if places else 0,
        "INPUT.FORMAT": "RGB",
        "INPUT.RANDOM_FLIP": "horizontal",
        "INPUT.CLASSIFICATION.SIZE": 224,
        "INPUT.CLASSIFICATION.CROP_SCALE": [0.08, 1.0],
        "INPUT.CLASSIFICATION.COLOR_JITTER": 0.4,
        "INPUT.CLASSIFICATION.TEST_RESIZE": 256,
        "SOLVER.OPTIMIZER": "SGD",
        "SOLVER.BASE_LR": 0.2 if kang else 0.1,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.IMS_PER_BATCH": 512 if kang else 256,
        "SOLVER.WEIGHT_DECAY": decay,
        "SOLVER.WEIGHT_DECAY_NORM": decay,
        "SOLVER.WEIGHT_DECAY_BIAS": None,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
        "SOLVER.WARMUP_ITERS": 0,
    }
    assert_values(name, expected)


@each(PUBLISHED)
def test_epochs(name):
    """Iterations are epochs times ceil(images / batch)."""
    cfg = loaded(name)
    _, images, epochs, second = DATA[name.split("/")[0]]
    images = BALANCED_IMAGES if name.endswith("_bound") else images
    length = next(count for text, count in epochs.items() if text in name)
    if cfg.MODEL.META_ARCHITECTURE != "ImageClassifier":
        length = 5 if name.endswith("_lws") else second
    assert length * math.ceil(images / cfg.SOLVER.IMS_PER_BATCH) == cfg.SOLVER.MAX_ITER


def test_learning_rate_falls_from_base_to_zero():
    """lr(t) = 0.1 (1 + cos(pi t / T)) / 2, from the first iteration on."""
    cfg = load_config(f"{CONFIGS}/Base-Classification.yaml", ["SOLVER.MAX_ITER", 12])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for t in range(13):
        expected = 0.1 * (1 + math.cos(math.pi * t / 12)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        scheduler.step()


MAGNITUDE, MARGIN = "MODEL.DISALIGN.MAGNITUDE", "MODEL.DISALIGN.MARGIN"
CONFIDENCE = "MODEL.DISALIGN.CONFIDENCE"
# What Tables 5 and 12 leave out of DisAlign.
COMPONENTS = {
    "magnitude": {MARGIN},
    "margin": {MAGNITUDE},
    "magnitude_no_confidence": {MARGIN, CONFIDENCE},
    "margin_no_confidence": {MAGNITUDE, CONFIDENCE},
    "no_confidence": {CONFIDENCE},
}


@each(ABLATIONS)
def test_ablations(name):
    stem = stem_of(name)
    if stem == "crt_generalized_reweight":
        # Table 11: the classifier retrained, as in cRT, with DisAlign's weights.
        exponent = "MODEL.CLASS_LOSS.REWEIGHT_EXPONENT"
        changed = {"MODEL.CLASSIFIER.LOSS", exponent, "DATALOADER.SAMPLER_TRAIN", "OUTPUT_DIR"}
        assert differences(name, loaded("ImageNet-LT/X_50_cosine_crt")) == changed
        rho = loaded("ImageNet-LT/X_50_cosine_disalign").MODEL.DISALIGN.RHO
        assert_values(name, {"MODEL.CLASSIFIER.LOSS": "reweighted_cross_entropy", exponent: rho})
        return
    base = loaded("ImageNet-LT/R_50_disalign")
    if stem in COMPONENTS:
        assert differences(name, base) == {*COMPONENTS[stem], "OUTPUT_DIR"}
        assert not any(flat(loaded(name))[key] for key in COMPONENTS[stem])
    else:
        rho = "MODEL.DISALIGN.RHO"
        assert differences(name, base) | {rho} == {rho, "DATASETS.TEST", "OUTPUT_DIR"}
        value = float(stem.removeprefix("rho_"))
        assert_values(name, {rho: value, "DATASETS.TEST": ("imagenet_lt_val",)})


@each(leaves_in(*SMALL))
def test_a_method_differs_from_the_baseline_by_itself(name):
    folder, stem = name.split("/")
    expected = values_of(name)
    stage_2 = expected["MODEL.META_ARCHITECTURE"] != "ImageClassifier"
    post_hoc = expected["MODEL.POST_HOC.METHOD"]
    first = f"output/{folder}/{expected['MODEL.CLASSIFIER.TYPE']}/model_final.pth"
    expected["MODEL.WEIGHTS"] = first if stage_2 or post_hoc else ""
    assert_values(name, expected)
    # All of a stage have one recipe; tau has no value that suits all data.
    changed = differences(name, loaded(f"{folder}/linear")) - expected.keys() - {"OUTPUT_DIR"}
    allowed = {"SOLVER.BASE_LR", "SOLVER.MAX_ITER"} if stage_2 else set()
    # As measured, not as published.
    post_hoc_keys = {"tau_norm": ("TAU", "TAU_BIAS"), "ncm": ("NCM_FEATURES", "NCM_DISTANCE")}
    allowed |= {f"MODEL.POST_HOC.{key}" for key in post_hoc_keys.get(post_hoc, ())}
    allowed |= {"SOLVER.MAX_ITER"} if stem.endswith("_longer") else set()
    assert changed == allowed


@pytest.mark.parametrize("folder", SMALL)
def test_the_benchmark(folder):
    """All methods, all losses; the longer baseline has the iterations of both stages."""
    assert len(leaves_in(folder)) == len(BENCHMARK)
    assert {*LOSSES, "ldam_drw", "cross_entropy"} == set(loss_names(IMAGES))
    stages = [loaded(f"{folder}/{name}") for name in ("linear", "linear_disalign")]
    longer = loaded(f"{folder}/linear_longer")
    assert sum(cfg.SOLVER.MAX_ITER for cfg in stages) == longer.SOLVER.MAX_ITER


def test_small_sets():
    """Of what the commands write without options: classes; tail classes of EQL are the few.

    They have fewer than 20 training images, as a part of all: 20 / 257 and 20 / 1639 rounded down.
    """
    generated = ClassificationConfig()
    sizes = {
        "digits-LT": (len(DIGITS), 257),
        "synthetic-LT": (generated.num_classes, generated.image_counts("train").sum()),
    }
    for folder, (classes, images) in sizes.items():
        assert_values(f"{folder}/linear", {"MODEL.CLASSIFIER.NUM_CLASSES": classes})
        threshold = loaded(f"{folder}/eql").MODEL.CLASS_LOSS.EQL_FREQUENCY
        assert 19 < threshold * images <= 20


# Of the paper's networks: blocks of the levels, groups.
NETWORKS = {
    "R_50": ([3, 4, 6, 3], 1),
    "R_101": ([3, 4, 23, 3], 1),
    "R_152": ([3, 8, 36, 3], 1),
    "X_50": ([3, 4, 6, 3], 32),
    "X_101": ([3, 4, 23, 3], 32),
    "X_152": ([3, 8, 36, 3], 32),
}


@pytest.mark.parametrize("backbone", NETWORKS)
def test_builds_the_network(backbone):
    """As many parameters as torchvision's of the same structure."""
    blocks, groups = NETWORKS[backbone]
    with torch.device("meta"):
        theirs = ResNet(Bottleneck, blocks, groups=groups, width_per_group=4 if groups > 1 else 64)
        own = Trainer.build_model(
            load_config(f"{CONFIGS}/ImageNet-LT/{backbone}.yaml", ["MODEL.DEVICE", "meta"])
        )
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(parameter.numel() for parameter in own.parameters()) == count


def test_places_fine_tunes_the_last_block():
    options = ["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", "", "MODEL.TIMM.NAME", "resnet26"]
    model = Trainer.build_model(load_config(f"{CONFIGS}/Places-LT/R_50.yaml", options))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = {".".join(name.split(".")[:3]) for name in trained}
    assert {part for part in parts if part.startswith("backbone")} == {"backbone.model.layer4"}
    assert {"classifier.weight", "classifier.bias"} < trained
