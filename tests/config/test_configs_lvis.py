# SPDX-License-Identifier: Apache-2.0
"""The LVIS configs: the recipe, and what each name says."""

from pathlib import Path

import pytest
from detectron2 import model_zoo
from detectron2.config import get_cfg

from longtail.data.synthetic import LVIS_CONFIG, HuedConfig
from longtail.data.synthetic.lvis import category_names
from tests.config.common import assert_values, differences, each, flat, leaves_in, loaded

PUBLISHED = leaves_in("LVISv0.5", "LVISv1")
LVIS = [*PUBLISHED, *leaves_in("LVIS-CamVid", "LVIS-Synthetic", "IoTKITs-LT")]
# Rows of Table 8 on v0.5, and of IoTKITs-LT, that differ by the loss of the box classifier.
CLASS_LOSSES = {"focal": "focal", "eql": "eql", "coco_bags": "bags", "bags_classifier": "bags"}
# Of other second stages than DisAlign's.
ARCHITECTURES = dict.fromkeys(("coco_bags", "bags_classifier", "crt"), "RetrainedRCNN")
ARCHITECTURES |= {"lws": "ScaledRCNN"}
CLASS_LOSSES |= {name: name for name in ("balanced_softmax", "seesaw", "eqlv2", "bags")}
POST_HOC = ("logit_adjustment", "tau_norm")
SAMPLERS = {
    "rfs": "RepeatFactorTrainingSampler",
    "irfs": "InstanceAwareRepeatFactorTrainingSampler",
}


@each(LVIS)
def test_says_what_its_name_says(name):
    stem = name.split("/")[1]
    cascade, second = stem.startswith("cascade"), "_disalign" in stem
    method = stem.partition("_FPN_")[2]
    other = ARCHITECTURES.get(method, "GeneralizedRCNN")
    balanced = "ClassBalancedTrainingSampler" if method in ("crt", "lws") else "TrainingSampler"
    expected = {
        "MODEL.META_ARCHITECTURE": "DisAlignRCNN" if second else other,
        "MODEL.MASK_ON": True,
        "MODEL.ROI_HEADS.NAME": "LongTailCascadeROIHeads" if cascade else "LongTailROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": cascade or "lite" in stem,
        "MODEL.ROI_BOX_HEAD.CLASSIFIER": "cosine" if "_cosine" in stem else "linear",
        "MODEL.ROI_BOX_HEAD.CLASS_LOSS": CLASS_LOSSES.get(method, "cross_entropy"),
        # DisAlign's second stage repeats no images, also after a first one that does.
        "DATALOADER.SAMPLER_TRAIN": SAMPLERS.get(
            stem.removesuffix("_copy_paste").split("_")[-1], balanced
        ),
        "INPUT.COPY_PASTE.PROBABILITY": 0.5 if stem.endswith("_copy_paste") else 0.0,
        "INPUT.MASK_FORMAT": "bitmask" if stem.endswith("_copy_paste") else "polygon",
    }
    if cascade:
        expected["MODEL.RPN.POST_NMS_TOPK_TRAIN"] = 2000
    if second:
        expected["MODEL.DISALIGN.RHO"] = 0.8
    if "lite" not in stem:
        expected["MODEL.RESNETS.DEPTH"] = 50 if "_R_50_" in stem else 101
        expected["MODEL.RESNETS.NUM_GROUPS"] = 32 if "_X_101_" in stem else 1
        expected["MODEL.RESNETS.STRIDE_IN_1X1"] = "_X_101_" not in stem
    if not second and method not in ARCHITECTURES and "lite" not in stem:
        weights = {"_coco": "mask_rcnn_R_50_FPN_3x", "_R_101_": "R-101", "_X_101_": "X-101-32x8d"}
        source = next((text for key, text in weights.items() if key in stem), "R-50")
        assert source in loaded(name).MODEL.WEIGHTS
    assert_values(name, expected)


@each(PUBLISHED)
def test_recipe_of_the_paper(name):
    """Schedule, sizes and test settings of section C.2 and Table 8."""
    steps, max_iter = {
        "LVISv0.5": ((60_000, 80_000), 90_000),
        "LVISv1": ((120_000, 160_000), 180_000),
    }[name.split("/")[0]]
    if name.endswith("_disalign"):
        steps, max_iter = (8_000,), 9_000
    if name.endswith("_disalign_released"):
        steps, max_iter = (4_000,), 4_500
    bags = name.endswith("_bags")
    if bags:
        # Epochs 8, 11 and 12 of 57,000 images.
        steps, max_iter = (8 * 57_000 // 16, 11 * 57_000 // 16), 12 * 57_000 // 16
    expected = {
        "SOLVER.OPTIMIZER": "SGD",
        "SOLVER.BASE_LR": 0.01 if bags else 0.02,
        "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.WEIGHT_DECAY": 1e-4,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "SOLVER.GAMMA": 0.1,
        "SOLVER.STEPS": steps,
        "SOLVER.MAX_ITER": max_iter,
        "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
        "INPUT.MAX_SIZE_TRAIN": 1333,
        "INPUT.MIN_SIZE_TEST": 800,
        "INPUT.MAX_SIZE_TEST": 1333,
        "INPUT.MASK_FORMAT": "polygon",
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
        "TEST.DETECTIONS_PER_IMAGE": 300,
        "DATALOADER.REPEAT_THRESHOLD": 0.001,
    }
    assert_values(name, expected)


OF_DETECTRON2 = [
    ("LVISv0.5/mask_rcnn_R_50_FPN", "LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"),
    ("LVISv0.5/mask_rcnn_R_101_FPN", "LVISv0.5-InstanceSegmentation/mask_rcnn_R_101_FPN_1x"),
    ("LVISv1/mask_rcnn_R_50_FPN", "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"),
    (
        "LVISv1/mask_rcnn_X_101_32x8d_FPN",
        "LVISv1-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x",
    ),
    ("LVISv0.5/cascade_rcnn_R_50_FPN", "Misc/cascade_mask_rcnn_R_50_FPN_1x"),
]


@pytest.mark.parametrize(("name", "other"), OF_DETECTRON2)
def test_against_detectron2s_own(name, other):
    """The model's keys are those of detectron2's config of the same name, but for the ROI heads."""
    theirs = get_cfg()
    # Its own function for this needs pkg_resources, which new environments lack.
    file = Path(model_zoo.__file__).parent / "configs" / f"{other}.yaml"
    if not file.is_file():
        pytest.skip("this installation of detectron2 came without its configs")
    theirs.merge_from_file(str(file))
    own_keys = {"MODEL.ROI_HEADS.NAME", "MODEL.DEVICE"}
    if other.startswith("Misc"):
        # That one is of COCO.
        own_keys |= {"MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"}
    changed = differences(name, theirs) & flat(theirs).keys()
    assert {key for key in changed if key.startswith(("MODEL.", "INPUT."))} <= own_keys


def test_weights_from_coco():
    """The model that detectron2 names for the config that the COCO rows start from."""
    url = model_zoo.get_checkpoint_url("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    for folder in ("LVISv0.5", "LVISv1"):
        weights = loaded(f"{folder}/mask_rcnn_R_50_FPN_coco").MODEL.WEIGHTS
        assert weights.startswith("detectron2://")
        assert url.endswith(weights.removeprefix("detectron2://"))


@pytest.mark.parametrize("backbone", ["lite0", "R_50"])
def test_number_of_generated_classes(backbone):
    """Of what the command writes without options."""
    count = {"MODEL.ROI_HEADS.NUM_CLASSES": len(category_names(LVIS_CONFIG))}
    assert_values(f"LVIS-Synthetic/mask_rcnn_{backbone}_FPN", count)


@each(leaves_in("LVIS-Hued"))
def test_recipe_of_400_categories(name):
    """What all rows share, and what a name says."""
    method = name.partition("_FPN")[2]
    second = "_disalign" in method
    expected = {
        "MODEL.META_ARCHITECTURE": "DisAlignRCNN" if second else "GeneralizedRCNN",
        "MODEL.MASK_ON": False,
        "MODEL.ROI_HEADS.NUM_CLASSES": len(category_names(HuedConfig())),
        "MODEL.ROI_BOX_HEAD.CLASSIFIER": "cosine" if "_cosine" in method else "linear",
        "MODEL.DISALIGN.INIT": "prior" if method.endswith("_prior") else "identity",
        "MODEL.DISALIGN.RHO": 0.8,
        "DATALOADER.SAMPLER_TRAIN": SAMPLERS.get(method.strip("_"), "TrainingSampler"),
        "MODEL.POST_HOC.METHOD": method[1:] if method[1:] in POST_HOC else "",
        "INPUT.MIN_SIZE_TRAIN": HuedConfig().image_size[:1],
        "SOLVER.MAX_ITER": 600 if second else 3000,
        "TEST.DETECTIONS_PER_IMAGE": 300,
        "TEST.LVIS.DECISIONS": True,
    }
    assert_values(name, expected)
    # 100 images, the most of a common category, are not repeated, 99 are.
    assert 99 / 2400 < loaded(name).DATALOADER.REPEAT_THRESHOLD <= 100 / 2400


IOTKITS = leaves_in("IoTKITs-LT")


@each([name for name in IOTKITS if name.endswith("_disalign")])
def test_a_small_second_stage_is_the_papers_scaled(name):
    """Section C.2, 9,000 of 90,000 iterations with the step at 8,000, at a quarter of the batch."""
    first = loaded(name.removesuffix("_disalign")).SOLVER
    assert first.MAX_ITER == 2000 and first.IMS_PER_BATCH == 4
    expected = {
        "OPTIMIZER": "SGD",
        "IMS_PER_BATCH": 4,
        "BASE_LR": 0.02 * 4 / 16,
        "MOMENTUM": 0.9,
        "WEIGHT_DECAY": 1e-4,
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "GAMMA": 0.1,
        "MAX_ITER": first.MAX_ITER // 10,
        "STEPS": (178,),  # 8 / 9 of 200
    }
    assert_values(name, {f"SOLVER.{key}": value for key, value in expected.items()})


@each(IOTKITS)
def test_small_recipe(name):
    """What all rows share: images, decisions, which images count as rare for repeating."""
    expected = {
        "INPUT.MIN_SIZE_TRAIN": (288, 320, 352),
        "INPUT.MIN_SIZE_TEST": 320,
        "MODEL.CHANNELS_LAST": True,
        "MODEL.TIMM.FREEZE_AT": 2,
        "MODEL.TIMM.NAME": "tf_efficientnet_lite2" if "lite2" in name else "tf_efficientnet_lite0",
        "SOLVER.AMP.ENABLED": False,
        "TEST.LVIS.DECISIONS": True,
        "TEST.DETECTIONS_PER_IMAGE": 300,
        "DATASETS.TRAIN": ("iotkits_lt_train",),
        "DATASETS.TEST": ("iotkits_lt_val",),
    }
    assert_values(name, expected)
    # 20 images, the most of a common category, are not repeated, 19 are.
    assert 19 / 677 < loaded(name).DATALOADER.REPEAT_THRESHOLD <= 20 / 677
