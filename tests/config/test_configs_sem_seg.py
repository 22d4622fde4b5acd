# SPDX-License-Identifier: Apache-2.0
"""The semantic segmentation configs: recipes, and what each method changes."""

import pytest

from tests.config.common import (
    assert_values,
    base_of,
    differences,
    each,
    flat,
    leaves_in,
    loaded,
    stem_of,
)

LENGTHS = {"ADE20K": "160k", "COCO-Stuff164K": "320k", "COCO-Stuff10K": "40k"}
# In neither paper: recipes of their own.
FOUNDATION = ("linear_dinov2_S", "upernet_clip_B", "upernet_convnext_T")
ROWS = [n for n in leaves_in(*LENGTHS) if not stem_of(n).startswith(FOUNDATION)]
OTHERS = [n for n in leaves_in("ADE20K") if stem_of(n).startswith(FOUNDATION)]
SMALL = leaves_in("CamVid", "CCP", "quickstart", "digit-scenes")
ABLATIONS = [name for name in ROWS if "/ablations/" in name]
# By stem: the one key that differs from a config beside the folder.
LOSS, WEIGHT = "MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "MODEL.REGION_REBALANCE.LOSS_WEIGHT"
CHANGED = {
    "reweighted_cross_entropy": LOSS,
    "balanced_softmax_pixel_prior": LOSS,
    "balanced_softmax_region_prior": LOSS,
    "dice": LOSS,
    "dice_cross_entropy": LOSS,
    "rr_weight_0.1": WEIGHT,
    "rr_weight_0.2": WEIGHT,
    "rr_weight_0.4": WEIGHT,
    "rr_unbalanced": "MODEL.REGION_REBALANCE.BALANCED",
}


def test_every_ablation_changes_one_key():
    found = set()
    for name in ABLATIONS:
        folder, stem = name.split("/")[0], stem_of(name)
        base = f"{folder}/deeplabv3plus_R_50c_{LENGTHS[folder]}"
        base += "_rr" if stem.startswith("rr_") else ""
        assert differences(name, loaded(base)) == {CHANGED[stem], "OUTPUT_DIR"}
        # The name says the value.
        value = str(flat(loaded(name))[CHANGED[stem]])
        assert stem in (value, f"rr_weight_{value}", {"False": "rr_unbalanced"}.get(value))
        found.add((folder, stem))
    assert found == {("ADE20K", stem) for stem in CHANGED} | {("COCO-Stuff164K", "rr_unbalanced")}


def test_the_small_ablations():
    """On CamVid and CCP; the longer training has the iterations of both stages."""
    pixel_loss = "MODEL.SEM_SEG_HEAD.PIXEL_LOSS"
    small = "deeplabv3plus_lite0"
    for name, base, key, value in (
        (f"CamVid/{small}_rr_unbalanced", "rr", "MODEL.REGION_REBALANCE.BALANCED", False),
        (f"CamVid/{small}_rr_longer", "rr", "SOLVER.MAX_ITER", 400 + 100),
        (f"CCP/{small}_rr_unbalanced", "rr", "MODEL.REGION_REBALANCE.BALANCED", False),
        (f"CCP/{small}_rcs", "", "DATALOADER.SAMPLER_TRAIN", "RareClassTrainingSampler"),
        (f"CCP/{small}_rcs_copy_paste", "rcs", "INPUT.COPY_PASTE.PROBABILITY", 0.5),
        (f"CCP/{small}_rr_area", "rr", "MODEL.REGION_REBALANCE.LABEL_DOWNSAMPLING", "area"),
        *(
            (f"CCP/{small}_{loss}", "", pixel_loss, loss)
            for loss in (
                *("balanced_softmax_pixel_prior", "balanced_softmax_region_prior"),
                "dice_cross_entropy",
            )
        ),
    ):
        first = f"{name.split('/')[0]}/{small}" + (f"_{base}" if base else "")
        assert differences(name, loaded(first)) == {key, "OUTPUT_DIR"}
        assert flat(loaded(name))[key] == value
    two_stages = (f"CamVid/{small}_rr", f"CamVid/{small}_rr_disalign")
    assert sum(loaded(name).SOLVER.MAX_ITER for name in two_stages) == 500


@each(leaves_in("CCP"))
def test_the_recipe_of_ccp(name):
    backbone, crop, mode = "tf_efficientnet_lite0", 192, "whole"
    if "lite2" in name:
        backbone = "tf_efficientnet_lite2"
    if "dinov2" in name:
        # Whole patches of 14, in training and in testing.
        backbone, crop, mode = "vit_small_patch14_dinov2.lvd142m", 196, "slide"
    expected = {
        "DATASETS.TRAIN": ("ccp_sem_seg_train",),
        "DATASETS.TEST": ("ccp_sem_seg_test",),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 59,
        "MODEL.TIMM.NAME": backbone,
        "MODEL.CHANNELS_LAST": True,
        "SOLVER.AMP.DTYPE": "bfloat16",
        "SOLVER.IMS_PER_BATCH": 4,
        "INPUT.MIN_SIZE_TRAIN": (275,),
        "INPUT.MIN_SIZE_TEST": 275,
        "INPUT.CROP.SIZE": [crop, crop],
        "TEST.SEM_SEG.MODE": mode,
        # Four classes do not occur, which the second stage would refuse.
        "MODEL.DISALIGN.CLAMP_ZERO_COUNTS": "_disalign" in name,
        "MODEL.POST_HOC.SKIP_ABSENT": name.endswith(("_ncm", "_logit_adjustment")),
        "MODEL.DISALIGN.WEIGHTED_MEAN": True,
    }
    assert_values(name, expected)


@each([name for name in [*ROWS, *OTHERS, *SMALL] if name.endswith("_rr")])
def test_region_rebalance_adds_the_branch_to_its_baseline(name):
    baseline = loaded(name.removesuffix("_rr"))
    head, branch = "MODEL.SEM_SEG_HEAD.NAME", "MODEL.REGION_REBALANCE.BASE_HEAD_NAME"
    allowed = {head, branch, "OUTPUT_DIR"}
    allowed |= {"TEST.EXPECTED_RESULTS"} if name.startswith("quickstart") else set()
    assert {head, "OUTPUT_DIR"} <= differences(name, baseline) <= allowed
    expected = {
        head: "RegionRebalanceHead",
        branch: baseline.MODEL.SEM_SEG_HEAD.NAME,
        "MODEL.REGION_REBALANCE.LOSS_WEIGHT": 0.3,
        "MODEL.REGION_REBALANCE.BALANCED": True,
    }
    assert_values(name, expected)


@each([name for name in [*ROWS, *OTHERS, *SMALL] if name.endswith("_disalign")])
def test_a_second_stage_calibrates_its_first(name):
    first = loaded(base_of(name))
    published = name in [*ROWS, *OTHERS]
    expected = {
        "MODEL.SEM_SEG_HEAD.NAME": (
            "DisAlignQueryHead" if "/mask2former" in name else "DisAlignSemSegHead"
        ),
        "MODEL.DISALIGN.BASE_HEAD_NAME": first.MODEL.SEM_SEG_HEAD.NAME,
        "MODEL.DISALIGN.RHO": 0.3,
        "MODEL.TIMM.PRETRAINED": "",
        # Section B.2; on short recipes a quarter, chosen beforehand.
        "SOLVER.MAX_ITER": 8000 if published else first.SOLVER.MAX_ITER // 4,
        "SOLVER.IMS_PER_BATCH": 32 if published else first.SOLVER.IMS_PER_BATCH,
    }
    assert_values(name, expected)


def test_disalign_as_its_release_trains_it():
    """What the release's config and head have, beside the paper's."""
    name = "ADE20K/fcn_R_50c_160k_disalign"
    expected = {
        "MODEL.DISALIGN.RHO": 0.2,
        "MODEL.DISALIGN.WEIGHTED_MEAN": False,
        "MODEL.DISALIGN.CONFIDENCE_BRANCH": "released",
        "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.MAX_ITER": 4000,
    }
    assert_values(f"{name}_released", expected)
    assert differences(f"{name}_released", loaded(name)) == {*expected, "OUTPUT_DIR"}


CNN = {
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyFloorLR",
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.POLY_LR_FLOOR": 1e-4,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.LAYER_DECAY": 1.0,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.AMP.ENABLED": False,
    "MODEL.TIMM.DROP_PATH": 0.0,
    "MODEL.META_ARCHITECTURE": "LongTailSemanticSegmentor",
    "MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE": False,
    "INPUT.CROP.SIZE": [512, 512],
    "INPUT.MIN_SIZE_TRAIN": (512,),
    "INPUT.MAX_SIZE_TRAIN": 2048,
    "INPUT.MIN_SIZE_TEST": 512,
    "INPUT.MAX_SIZE_TEST": 2048,
    "TEST.SEM_SEG.MODE": "whole",
}
SWIN = CNN | {
    "SOLVER.OPTIMIZER": "AdamW",
    "SOLVER.BASE_LR": 6e-5,
    "SOLVER.WEIGHT_DECAY": 0.01,
    "SOLVER.WEIGHT_DECAY_NORM": 0.01,
    "SOLVER.WEIGHT_DECAY_BIAS": None,
    "SOLVER.POLY_LR_POWER": 1.0,
    "SOLVER.POLY_LR_FLOOR": 0.0,
    "SOLVER.WARMUP_ITERS": 1500,
    "SOLVER.WARMUP_FACTOR": 1e-6,
    "SOLVER.WARMUP_METHOD": "linear",
    "MODEL.TIMM.DROP_PATH": 0.3,
}
BEIT = SWIN | {
    "SOLVER.BASE_LR": 2e-5,
    "SOLVER.WEIGHT_DECAY": 0.05,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
    "SOLVER.LAYER_DECAY": 0.95,
    "SOLVER.WARMUP_ITERS": 3000,
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.AMP.DTYPE": "float16",
    "MODEL.TIMM.DROP_PATH": 0.2,
    "MODEL.TIMM.IMAGE_SIZE": 640,
    "MODEL.TIMM.OUT_BLOCKS": [7, 11, 15, 23],
    "MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE": True,
    "INPUT.CROP.SIZE": [640, 640],
    "INPUT.MIN_SIZE_TRAIN": (640,),
    "INPUT.MAX_SIZE_TRAIN": 2560,
    "INPUT.MIN_SIZE_TEST": 640,
    "INPUT.MAX_SIZE_TEST": 2560,
    "TEST.SEM_SEG.MODE": "slide",
    "TEST.SEM_SEG.CROP_SIZE": [640, 640],
    "TEST.SEM_SEG.STRIDE": [426, 426],
}


@each(ROWS)
def test_recipe_and_data(name):
    folder = name.split("/")[0]
    recipe = SWIN if "_swin_" in name else BEIT if "_beit_" in name else CNN
    length = int(LENGTHS[folder].removesuffix("k")) * 1000
    upper = "upernet" in name or "ocrnet" in name
    data = {
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 150 if folder == "ADE20K" else 171,
        "SOLVER.MAX_ITER": length,
        "TEST.EVAL_PERIOD": length // 10,
        "MODEL.TIMM.OUTPUT_STRIDE": 32 if upper else 8,
        "MODEL.SEM_SEG_HEAD.AUXILIARY.LOSS_WEIGHT": 0.0 if "ocrnet" in name else 0.4,
    }
    second = {"SOLVER.IMS_PER_BATCH": 32, "SOLVER.MAX_ITER": 8000}
    released = {"SOLVER.IMS_PER_BATCH": 16, "SOLVER.MAX_ITER": 4000}
    more = {"disalign": second, "released": released}.get(name.rpartition("_")[2], {})
    assert_values(name, recipe | data | more)
    if not more:
        # Where the ImageNet weights come from.
        model = loaded(name).MODEL
        assert (model.WEIGHTS == "") == (model.TIMM.PRETRAINED == "timm")
        assert model.WEIGHTS in ("", f"weights/{model.TIMM.NAME}_imagenet.pth")


@each(OTHERS)
def test_foundation_backbones(name):
    """What is frozen, and windows of whole patches where images are padded to them."""
    cfg = loaded(name)
    timm = cfg.MODEL.TIMM
    linear, lora = "linear" in name, name.endswith("_lora")
    assert ((5, "none") if linear else (0, "pyramid")) == (timm.FREEZE_AT, timm.NECK)
    assert (lora, 2.0 if lora else 1.0) == (timm.LORA.ENABLED, timm.LORA.LORA_ALPHA / timm.LORA.R)
    second = name.endswith("_disalign")
    assert (8000 if second else 40000 if linear else 160000) == cfg.SOLVER.MAX_ITER
    assert bool(cfg.MODEL.WEIGHTS) == second and ("" if second else "timm") == timm.PRETRAINED
    plain = cfg.MODEL.BACKBONE.NAME == "TimmPlainBackbone"
    assert cfg.MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE == plain == (cfg.TEST.SEM_SEG.MODE == "slide")
    if plain:
        patch = 14 if linear else 16
        assert timm.IMAGE_SIZE % patch == 0
        sides = [timm.IMAGE_SIZE, timm.IMAGE_SIZE]
        assert cfg.INPUT.CROP.SIZE == cfg.TEST.SEM_SEG.CROP_SIZE == sides


@pytest.mark.parametrize("folder", LENGTHS)
def test_augmentation_and_scales(folder):
    """Section 4.2 of Region Rebalance."""
    cfg = loaded(leaves_in(folder)[0])
    assert cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 0.75
    assert list(cfg.INPUT.RESIZE_SCALE_RANGE) == [0.5, 2.0]
    assert cfg.INPUT.PHOTOMETRIC
    assert list(cfg.TEST.AUG.SCALES) == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


def test_the_quick_start_checks_what_was_measured():
    for ending, value in (("", 25.8), ("_rr", 26.2), ("_disalign", 26.0), ("_rr_disalign", 26.2)):
        expected = [["sem_seg", "mIoU", value, 6.0]]
        assert_values(
            f"quickstart/deeplabv3plus_lite0{ending}", {"TEST.EXPECTED_RESULTS": expected}
        )
