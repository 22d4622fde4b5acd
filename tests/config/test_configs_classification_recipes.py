"""The image classification configs: recipes, second stages, post hoc methods, the benchmark's."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models.resnet import Bottleneck, ResNet

from longtail.config import load_config
from longtail.data.datasets.digits_lt import CLASSES as DIGITS
from longtail.data.synthetic.classification import ClassificationConfig
from longtail.engine import Trainer
from longtail.engine.training.solver import build_lr_scheduler
from longtail.losses import IMAGES, loss_names
from tests.config.test_configs import CONFIGS, ROOT, loaded
from tests.config.test_configs_classification import ABLATIONS, BOUNDS, PUBLISHED, folder_of
from tests.config.test_configs_lvis import assert_values, differences
from tests.config.test_configs_sem_seg import config_of, name_of
from tools.config_index import comment_lines

# By folder: classes, training images, epochs of the first stages (by ending) and of the second.
DATA = {
    "ImageNet-LT": (1000, 115_846, {"": 90}, 10),
    "iNaturalist2018": (8142, 437_513, {"_90e": 90, "_200e": 200}, 30),
    "Places-LT": (365, 62_500, {"": 30}, 10),
}
# ImageNet's training images without the 20 of each class that ImageNet-LT validates on.
BALANCED_IMAGES = 1_281_167 - 20 * 1000

# By ending of the name, what a config sets besides its data and backbone; the first that fits.
SECOND = {
    "_cosine_disalign": {"ARCHITECTURE": "DisAlignImageClassifier", "RHO": 1.5},
    "_disalign": {"ARCHITECTURE": "DisAlignImageClassifier", "RHO": 1.2},
    "_crt": {"ARCHITECTURE": "RetrainedImageClassifier", "SAMPLER": "ClassBalanced"},
    "_lws": {"ARCHITECTURE": "ScaledImageClassifier", "SAMPLER": "ClassBalanced"},
    "_bound": {"ARCHITECTURE": "RetrainedImageClassifier"},
}
OTHER = {
    "_ncm": {"METHOD": "ncm"},
    "_tau_norm": {"METHOD": "tau_norm"},
    "_logit_adjustment": {"METHOD": "logit_adjustment"},
    "_class_balanced": {"SAMPLER": "ClassBalanced"},
    "_square_root": {"SAMPLER": "SquareRoot"},
    "_focal": {"LOSS": "focal"},
    "_ldam_drw": {"LOSS": "ldam_drw"},
    "": {},
}
KEYS = {
    "ARCHITECTURE": "MODEL.META_ARCHITECTURE",
    "RHO": "MODEL.DISALIGN.RHO",
    "SAMPLER": "DATALOADER.SAMPLER_TRAIN",
    "METHOD": "MODEL.POST_HOC.METHOD",
    "LOSS": "MODEL.CLASSIFIER.LOSS",
}
DEFAULTS = {"ARCHITECTURE": "ImageClassifier", "RHO": 0.8, "SAMPLER": "", "METHOD": ""}
DEFAULTS["LOSS"] = "cross_entropy"
NAMED = [path for path in PUBLISHED if path not in ABLATIONS]
each_named = pytest.mark.parametrize("path", NAMED, ids=name_of)


def ending(stem: str, endings: dict) -> str | None:
    return next((end for end in endings if stem.endswith(end)), None)


SECOND_STAGES = [path for path in NAMED if ending(path.stem, SECOND)]
POST_HOC = [path for path in NAMED if path.stem.endswith(tuple(list(OTHER)[:3]))]


@each_named
def test_says_what_its_name_says(path):
    stem, folder = path.stem, folder_of(path)
    values = DEFAULTS | (SECOND | OTHER)[ending(stem, SECOND | OTHER)]
    values["SAMPLER"] += "TrainingSampler"
    kind, depth = stem.split("_")[:2]
    network = f"resnet{depth}" if kind == "R" else f"resnext{depth}_32x4d"
    cosine = "_cosine" in stem or stem.endswith("_ldam_drw")
    train, test = {
        "ImageNet-LT": ("imagenet_lt_train", "imagenet_lt_test"),
        "iNaturalist2018": ("inaturalist2018_train", "inaturalist2018_val"),
        "Places-LT": ("places_lt_train", "places_lt_test"),
    }[folder]
    expected = {
        "MODEL.TIMM.NAME": network + (".tv_in1k" if folder == "Places-LT" else ""),
        "MODEL.CLASSIFIER.TYPE": "cosine" if cosine else "linear",
        "MODEL.CLASSIFIER.NUM_CLASSES": DATA[folder][0],
        "DATASETS.TRAIN": ("imagenet_full_train" if stem in BOUNDS else train,),
        "DATASETS.TEST": (test,),
        "OUTPUT_DIR": f"output/{name_of(path)}",
    }
    assert_values(loaded(path), expected | {KEYS[key]: values[key] for key in values})


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_recipe_of_the_paper(path):
    """Section A.2; weight decay as in the configs of Kang et al., whom it follows."""
    folder = folder_of(path)
    decay = 1e-4 if folder == "iNaturalist2018" else 5e-4
    places = folder == "Places-LT"
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
        "SOLVER.BASE_LR": 0.1,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.IMS_PER_BATCH": 256,
        "SOLVER.WEIGHT_DECAY": decay,
        "SOLVER.WEIGHT_DECAY_NORM": decay,
        "SOLVER.WEIGHT_DECAY_BIAS": None,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
        "SOLVER.WARMUP_ITERS": 0,
    }
    assert_values(loaded(path), expected)


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_epochs(path):
    """Iterations are epochs times ceil(images / batch)."""
    cfg = loaded(path)
    _, images, epochs, second = DATA[folder_of(path)]
    if path.stem in BOUNDS:
        images = BALANCED_IMAGES
    length = next(count for name, count in epochs.items() if name in path.stem)
    if cfg.MODEL.META_ARCHITECTURE != "ImageClassifier":
        length = second
    iterations = math.ceil(images / cfg.SOLVER.IMS_PER_BATCH)
    assert length * iterations == cfg.SOLVER.MAX_ITER


def test_learning_rate_falls_from_base_to_zero():
    """lr(t) = 0.1 (1 + cos(pi t / T)) / 2, from the first iteration on."""
    cfg = load_config(str(ROOT / "configs/Base-Classification.yaml"), ["SOLVER.MAX_ITER", 12])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for t in range(13):
        expected = 0.1 * (1 + math.cos(math.pi * t / 12)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        scheduler.step()


def first_of(path: Path) -> Path:
    """The config that a config is based on."""
    return path.parent / yaml.safe_load(path.read_text(encoding="utf-8"))["_BASE_"]


@pytest.mark.parametrize("path", SECOND_STAGES, ids=name_of)
def test_second_stage_follows_its_first(path):
    first = first_of(path)
    assert first.stem == path.stem.removesuffix(f"_{path.stem.rpartition('_')[2]}")
    assert f"Stage 2, after {first.name}." in comment_lines(path)
    stage_1 = loaded(first)
    assert_values(loaded(path), {"MODEL.WEIGHTS": f"{stage_1.OUTPUT_DIR}/model_final.pth"})
    assert stage_1.MODEL.META_ARCHITECTURE == "ImageClassifier"
    required = {"MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS", "SOLVER.MAX_ITER", "OUTPUT_DIR"}
    allowed = {
        "_disalign": {"MODEL.DISALIGN.RHO"},
        "_bound": {"DATASETS.TRAIN", "DATALOADER.SAMPLER_TRAIN"},
    }.get(f"_{path.stem.rpartition('_')[2]}", {"DATALOADER.SAMPLER_TRAIN"})
    if folder_of(path) == "Places-LT":
        # The weights are the first stage's.
        required |= {"MODEL.TIMM.PRETRAINED"}
        assert_values(loaded(path), {"MODEL.TIMM.PRETRAINED": ""})
    assert required <= differences(path, stage_1) <= required | allowed


@pytest.mark.parametrize("path", POST_HOC, ids=name_of)
def test_post_hoc_follows_its_first(path):
    first = first_of(path)
    method = loaded(path).MODEL.POST_HOC.METHOD
    assert path.stem == f"{first.stem}_{method}"
    assert f"Post hoc, after {first.name}." in comment_lines(path)
    stage_1 = loaded(first)
    assert_values(loaded(path), {"MODEL.WEIGHTS": f"{stage_1.OUTPUT_DIR}/model_final.pth"})
    required = {"MODEL.WEIGHTS", "MODEL.POST_HOC.METHOD", "OUTPUT_DIR"}
    assert required <= differences(path, stage_1) <= required | {"MODEL.POST_HOC.TAU"}


def test_ablations_start_from_the_same_first_stage():
    for path in ABLATIONS:
        first = loaded(path).MODEL.WEIGHTS.removesuffix("/model_final.pth")
        stem = "X_50_cosine" if path.stem.startswith("crt") else "R_50"
        assert first == loaded(config_of(f"ImageNet-LT/{stem}")).OUTPUT_DIR
        assert f"Stage 2, after {stem}.yaml." in comment_lines(path)


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_its_command_trains_or_only_evaluates(path):
    command = next(line for line in comment_lines(path) if line.startswith("python"))
    assert ("--eval-only" in command.split()) == bool(loaded(path).MODEL.POST_HOC.METHOD)


# The benchmark's configs, in both folders: what they set besides the baseline's values.
SMALL = {"digits-LT": "digits_lt", "synthetic-LT": "synthetic_lt"}
LOSSES = ("reweighted_cross_entropy", "class_balanced", "focal", "balanced_softmax", "seesaw")
LOSSES += ("eql", "eqlv2", "bags")
BENCHMARK = {"linear": {}, "cosine": {"TYPE": "cosine"}, "linear_longer": {}}
BENCHMARK |= {loss: {"LOSS": loss} for loss in LOSSES}
BENCHMARK["ldam_drw"] = {"LOSS": "ldam_drw", "TYPE": "cosine"}
BENCHMARK["class_balanced_sampling"] = {"SAMPLER": "ClassBalanced"}
BENCHMARK["square_root_sampling"] = {"SAMPLER": "SquareRoot"}
BENCHMARK |= {
    f"{head}{end}": SECOND.get(f"_{head}{end}", SECOND.get(end, OTHER.get(end))) | {"TYPE": head}
    for head, ends in (
        ("linear", ("_crt", "_lws", "_bound", "_disalign", *list(OTHER)[:3])),
        ("cosine", ("_crt", "_disalign")),
    )
    for end in ends
}
SMALL_CONFIGS = [path for path in CONFIGS if folder_of(path) in SMALL]


@pytest.mark.parametrize("folder", SMALL)
def test_every_method_of_the_benchmark(folder):
    found = {path.stem for path in SMALL_CONFIGS if folder_of(path) == folder}
    assert found == BENCHMARK.keys()


def test_every_loss_of_images_is_in_the_benchmark():
    assert {*LOSSES, "ldam_drw", "cross_entropy"} == set(loss_names(IMAGES))


@pytest.mark.parametrize("path", SMALL_CONFIGS, ids=name_of)
def test_a_method_differs_from_the_baseline_by_itself(path):
    data = SMALL[folder_of(path)]
    values = DEFAULTS | {"TYPE": "linear"} | BENCHMARK[path.stem]
    values["SAMPLER"] += "TrainingSampler"
    keys = KEYS | {"TYPE": "MODEL.CLASSIFIER.TYPE"}
    train = "balanced" if path.stem.endswith("_bound") else "train"
    expected = {keys[key]: values[key] for key in values}
    expected |= {"DATASETS.TRAIN": (f"{data}_{train}",), "DATASETS.TEST": (f"{data}_test",)}
    expected["OUTPUT_DIR"] = f"output/{name_of(path)}"
    first = ""
    if values["ARCHITECTURE"] != "ImageClassifier" or values["METHOD"]:
        first = f"output/{folder_of(path)}/{values['TYPE']}/model_final.pth"
    expected["MODEL.WEIGHTS"] = first
    assert_values(loaded(path), expected)
    # All of a stage have one recipe; tau has no value that suits all data.
    changed = differences(path, loaded(path.with_stem("linear"))) - expected.keys()
    stage_2 = values["ARCHITECTURE"] != "ImageClassifier"
    allowed = {"SOLVER.BASE_LR", "SOLVER.MAX_ITER"} if stage_2 else set()
    allowed |= {"MODEL.POST_HOC.TAU"} if values["METHOD"] == "tau_norm" else set()
    allowed |= {"SOLVER.MAX_ITER"} if path.stem.endswith("_longer") else set()
    assert changed == allowed


@pytest.mark.parametrize("folder", SMALL)
def test_the_longer_baseline_has_the_iterations_of_both_stages(folder):
    stages = [loaded(config_of(f"{folder}/{name}")) for name in ("linear", "linear_disalign")]
    longer = loaded(config_of(f"{folder}/linear_longer"))
    assert sum(cfg.SOLVER.MAX_ITER for cfg in stages) == longer.SOLVER.MAX_ITER


def test_numbers_of_small_classes():
    """Of what the tools write without options."""
    counts = {"digits-LT": len(DIGITS), "synthetic-LT": ClassificationConfig.num_classes}
    for folder, count in counts.items():
        cfg = loaded(config_of(f"{folder}/linear"))
        assert_values(cfg, {"MODEL.CLASSIFIER.NUM_CLASSES": count})


def test_tail_classes_of_eql_are_the_few():
    """Fewer than 20 training images, as a part of all: 20 / 257 and 20 / 1639 rounded down."""
    images = {"digits-LT": 257, "synthetic-LT": ClassificationConfig().image_counts("train").sum()}
    for folder, count in images.items():
        threshold = loaded(config_of(f"{folder}/eql")).MODEL.CLASS_LOSS.EQL_FREQUENCY
        assert 19 < threshold * count <= 20


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
    path = config_of(f"ImageNet-LT/{backbone}")
    with torch.device("meta"):
        theirs = ResNet(Bottleneck, blocks, groups=groups, width_per_group=4 if groups > 1 else 64)
        own = Trainer.build_model(load_config(str(path), ["MODEL.DEVICE", "meta"]))
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(parameter.numel() for parameter in own.parameters()) == count


def test_places_fine_tunes_the_last_block():
    options = ["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", "", "MODEL.TIMM.NAME", "resnet26"]
    model = Trainer.build_model(load_config(str(config_of("Places-LT/R_50")), options))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = {".".join(name.split(".")[:3]) for name in trained}
    assert {part for part in parts if part.startswith("backbone")} == {"backbone.model.layer4"}
    assert {"classifier.weight", "classifier.bias"} < trained
