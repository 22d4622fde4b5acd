# SPDX-License-Identifier: Apache-2.0
"""All leaves: data sets, output folders, stages, the deployed form, the models they build."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.config import deployed_config, load_config
from tests.config.common import (
    CONFIGS,
    LEAVES,
    assert_values,
    base_of,
    built,
    differences,
    each,
    leaves_in,
    loaded,
)

# Classes of the data sets of image classification, by the start of their names.
IMAGE_CLASSES = {
    "imagenet": 1000,
    "places": 365,
    "inaturalist2018": 8142,
    "digits": 10,
    "cifar100": 100,
}


@each(LEAVES)
def test_data_sets(name):
    cfg = loaded(name)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    for data in names:
        assert data in DatasetCatalog.list(), data
        # The number of generated classes is that of what was generated on this machine.
        if "synthetic" in data:
            continue
        metadata = MetadataCatalog.get(data)
        if metadata.evaluator_type == "classification":
            # Most know their classes once they are loaded.
            assert IMAGE_CLASSES[data.split("_")[0]] == cfg.MODEL.CLASSIFIER.NUM_CLASSES
        elif metadata.evaluator_type == "lvis":
            assert len(metadata.thing_classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
        else:
            assert len(metadata.stuff_classes) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


def test_output_folders_differ():
    assert len({loaded(name).OUTPUT_DIR for name in LEAVES}) == len(LEAVES) > 300


# What a second stage or a post hoc method may change besides what makes it one: its method's keys,
# its schedule, its samples.
STAGE = {"MODEL.WEIGHTS", "OUTPUT_DIR"}
SCHEDULE = {f"SOLVER.{key}" for key in ("STEPS", "MAX_ITER", "CHECKPOINT_PERIOD", "IMS_PER_BATCH")}
SCHEDULE |= {f"SOLVER.{key}" for key in ("BASE_LR", "LR_SCHEDULER_NAME", "WARMUP_ITERS")}
SCHEDULE |= {f"SOLVER.{key}" for key in ("OPTIMIZER", "WEIGHT_DECAY")}
SCHEDULE |= {"TEST.EXPECTED_RESULTS"}
SAMPLES = {"DATALOADER.SAMPLER_TRAIN", "DATASETS.TRAIN"}
HEAD, RHO = "MODEL.SEM_SEG_HEAD.NAME", "MODEL.DISALIGN.RHO"
ARCHITECTURE, PRETRAINED = "MODEL.META_ARCHITECTURE", "MODEL.TIMM.PRETRAINED"
# Pixels are weighted instead of drawn.
PIXELS = ("MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "MODEL.SECOND_STAGE.BASE_HEAD_NAME")
POST_HOC = [f"MODEL.POST_HOC.{key}" for key in ("TAU_BIAS", "NCM_FEATURES", "NCM_DISTANCE")]
METHODS = {
    "disalign": {ARCHITECTURE, HEAD, "MODEL.DISALIGN.BASE_HEAD_NAME", RHO},
    "crt": {ARCHITECTURE, HEAD, *PIXELS},
    "lws": {ARCHITECTURE, HEAD, *PIXELS},
    # Figure 1 of DisAlign is of the val split.
    "bound": {ARCHITECTURE, "DATASETS.TEST"},
    "ncm": {"MODEL.POST_HOC.METHOD", *POST_HOC[1:]},
    "tau_norm": {"MODEL.POST_HOC.METHOD", "MODEL.POST_HOC.TAU", POST_HOC[0]},
    "logit_adjustment": {"MODEL.POST_HOC.METHOD"},
}
PRIOR = [name for name in LEAVES if name.endswith("_prior") and "_disalign" in name]
STAGES = {name: m for name in LEAVES for m in METHODS if name.endswith(f"_{m}")}


@each(PRIOR)
def test_disalign_from_the_prior_differs_in_where_it_starts(name):
    beside = loaded(name.removesuffix("_prior"))
    assert differences(name, beside) == {"MODEL.DISALIGN.INIT", "OUTPUT_DIR"}
    assert_values(name, {"MODEL.DISALIGN.INIT": "prior"})


@each([*STAGES])
def test_a_stage_follows_its_first(name):
    method, first = STAGES[name], base_of(name)
    assert name == f"{first}_{method}"
    stage_1 = loaded(first)
    assert_values(name, {"MODEL.WEIGHTS": f"{stage_1.OUTPUT_DIR}/model_final.pth"})
    changed = differences(name, stage_1)
    post_hoc = bool(loaded(name).MODEL.POST_HOC.METHOD)
    assert STAGE | ({"MODEL.POST_HOC.METHOD"} if post_hoc else set()) <= changed
    allowed = STAGE | METHODS[method] | (set() if post_hoc else SCHEDULE | SAMPLES | {PRETRAINED})
    # Four classes of CCP do not occur.
    if name.startswith("CCP/"):
        allowed |= {"MODEL.DISALIGN.CLAMP_ZERO_COUNTS", "MODEL.POST_HOC.SKIP_ABSENT"}
    assert changed <= allowed
    if not post_hoc:
        assert changed & {ARCHITECTURE, HEAD}
        # No download of what the first stage's weights replace.
        assert loaded(name).MODEL.TIMM.PRETRAINED in ("", "package")


def model_of(name: str) -> str:
    """Return what the deployed model depends on, but for the number of classes."""
    cfg = deployed_config(loaded(name))
    cfg.defrost()
    cfg.MODEL.CLASSIFIER.LOSS = cfg.MODEL.ROI_BOX_HEAD.CLASS_LOSS = "cross_entropy"
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0
    cfg.MODEL.WEIGHTS = cfg.MODEL.POST_HOC.METHOD = ""
    if cfg.MODEL.BACKBONE.NAME == "TimmClassificationBackbone":
        # Their networks have a test of their own.
        cfg.MODEL.TIMM.NAME = ""
        cfg.MODEL.TIMM.FREEZE_AT = 0
    return str(cfg.MODEL)


# Those of semantic segmentation on large data sets have a test of their own.
GROUPS = {
    "small segmentation": ("CamVid", "CCP", "quickstart", "digit-scenes"),
    "detection": ("LVISv0.5", "LVISv1", "LVIS-CamVid", "LVIS-Synthetic", "LVIS-Hued", "IoTKITs-LT"),
    "images": ("ImageNet-LT", "Places-LT", "iNaturalist2018", "digits-LT", "synthetic-LT"),
    "small images": ("CIFAR100-LT", "CIFAR100-LT-40e"),
}


@pytest.mark.slow
@pytest.mark.parametrize("folders", GROUPS.values(), ids=GROUPS)
def test_builds_the_deployed_models(folders):
    options = ["MODEL.DEVICE", "meta", "MODEL.CLASSIFIER.LOSS", "cross_entropy"]
    for name in {model_of(name): name for name in leaves_in(*folders)}.values():
        cfg = deployed_config(load_config(str(CONFIGS / f"{name}.yaml"), options))
        model = built(cfg)
        assert type(model).__name__ == cfg.MODEL.META_ARCHITECTURE, name


def test_a_baseline_and_region_rebalance_are_deployed_alike():
    options = ["MODEL.DEVICE", "meta", "MODEL.TIMM.PRETRAINED", ""]
    names = ("CamVid/deeplabv3plus_lite0", "CamVid/deeplabv3plus_lite0_rr")
    plain, branch = (load_config(str(CONFIGS / f"{name}.yaml"), options) for name in names)
    states = [built(c).state_dict() for c in (plain, deployed_config(branch))]
    shapes = [{key: tensor.shape for key, tensor in state.items()} for state in states]
    assert shapes[0] == shapes[1]
