"""The semantic segmentation configs: the papers' rows, their figures and recipes."""

from pathlib import Path

import pytest
import yaml

from tests.config.test_configs import CONFIGS, ROOT, loaded
from tests.config.test_configs_lvis import assert_values, differences, flat
from tools.config_index import comment_lines, read_header

FOLDERS = {"ADE20K": "160k", "COCO-Stuff164K": "320k", "COCO-Stuff10K": "40k"}
ROWS = [path for path in CONFIGS if path.relative_to(ROOT).parts[1] in FOLDERS]
RIVALS = [path for path in ROWS if path.stem.endswith("_rr")]
SECOND_STAGES = [
    path
    for path in CONFIGS
    if path.stem.endswith("_disalign")
    and path.relative_to(ROOT).parts[1] in ("ADE20K", "CamVid", "quickstart")
]

# Method, backbone, single-scale and multi-scale mIoU, in percent, of the paper's baseline and of
# Region Rebalance.
TABLE_3 = """
OCRNet HRNet-W18        39.32 40.80    41.80 43.55
UperNet ResNet-50c      42.05 42.78    43.27 44.03
PSPNet ResNet-50c       42.48 43.44    42.83 44.26
DeepLabv3+ ResNet-50c   43.95 44.93    45.02 46.03
OCRNet HRNet-W48        43.25 44.88    44.50 46.09
UperNet ResNet-101c     43.82 44.85    44.78 46.11
PSPNet ResNet-101c      44.39 45.35    44.65 46.15
DeepLabv3+ ResNet-101c  45.47 46.35    46.67 47.96
UperNet Swin-T          44.51 45.81    45.02 46.45
UperNet Swin-B†         50.04 51.66    51.20 52.88
UperNet BEiT-L          56.7 57.0      57.2 57.7
"""
TABLE_4 = """
OCRNet HRNet-W18        31.58 32.34    37.98 38.78
UperNet ResNet-50c      39.86 40.26    41.20 41.73
PSPNet ResNet-50c       40.53 40.75    41.92 42.34
DeepLabv3+ ResNet-50c   40.85 41.49    42.66 43.47
OCRNet HRNet-W48        40.40 41.66    41.83 43.29
UperNet ResNet-101c     41.15 41.51    42.30 42.78
PSPNet ResNet-101c      41.95 42.42    43.40 43.85
DeepLabv3+ ResNet-101c  42.39 42.96    43.93 44.62
UperNet Swin-T          43.83 44.58    44.45 45.18
UperNet Swin-B†         47.67 48.57    48.21 49.20
"""
TABLE_7 = """
DeepLabv3+ ResNet-50c   35.84 36.85    36.53 38.03
DeepLabv3+ ResNet-101c  38.14 39.00    38.72 40.19
"""
# DisAlign, Table 15 (Table 6 has its multi-scale figures): single-scale and multi-scale mIoU, and
# single-scale mIoU of head, body and tail classes, of its baseline and of DisAlign.
TABLE_15 = """
FCN R-50          36.1 38.1    62.5 38.1 27.6    37.5 40.1    62.6 40.2 28.8
FCN R-101         39.9 41.4    65.3 42.0 31.7    41.8 43.7    65.5 44.1 33.7
FCN S-101         45.6 46.2    66.6 47.5 38.6    46.2 46.9    66.6 48.0 39.4
DeepLabV3+ R-50   43.9 44.9    66.6 47.1 35.6    44.4 45.7    66.6 47.2 36.5
DeepLabV3+ R-101  45.5 46.4    67.6 48.2 37.6    46.0 47.1    67.6 48.4 38.5
DeepLabV3+ S-101  46.5 47.3    68.0 49.1 38.8    46.9 47.8    67.8 49.2 39.6
"""
# By stem: row, figure, and the one key that differs from a config beside the folder.
LOSS, WEIGHT = "MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "MODEL.REGION_REBALANCE.LOSS_WEIGHT"
ABLATIONS = {
    "reweighted_cross_entropy": ("Table 1", "37.86", LOSS),
    "balanced_softmax_pixel_prior": ("Table 1", "38.57", LOSS),
    "balanced_softmax_region_prior": ("Table 1", "40.66", LOSS),
    "rr_weight_0.1": ("Table 5", "44.61", WEIGHT),
    "rr_weight_0.2": ("Table 5", "44.85", WEIGHT),
    "rr_weight_0.4": ("Table 5", "44.64", WEIGHT),
    "dice": ("Table 6", "1.14", LOSS),
    "dice_cross_entropy": ("Table 6", "44.12", LOSS),
    "rr_unbalanced": ("Figure 7", "not published", "MODEL.REGION_REBALANCE.BALANCED"),
}
STEMS = {"FCN": "fcn", "DeepLabv3+": "deeplabv3plus", "PSPNet": "pspnet", "UperNet": "upernet"}
STEMS |= {"OCRNet": "ocrnet", "DeepLabV3+": "deeplabv3plus"}
STEMS |= {"ResNet-50c": "R_50c", "ResNet-101c": "R_101c", "R-50": "R_50c", "R-101": "R_101c"}
STEMS |= {"S-101": "S_101", "HRNet-W18": "HRNet_W18", "HRNet-W48": "HRNet_W48"}
STEMS |= {"Swin-T": "swin_T", "Swin-B†": "swin_B_22k", "BEiT-L": "beit_L"}


def rows_of_the_papers() -> dict[str, dict[str, str]]:
    """Figures by the row's text, by the config's path in ``configs``."""
    rows: dict[str, dict[str, str]] = {}
    tables = {"ADE20K": ("3", TABLE_3), "COCO-Stuff164K": ("4", TABLE_4)}
    tables["COCO-Stuff10K"] = ("7", TABLE_7)
    for folder, (number, table) in tables.items():
        for line in table.strip().splitlines():
            method, backbone, *figures = line.split()
            path = f"{folder}/{STEMS[method]}_{STEMS[backbone]}_{FOLDERS[folder]}"
            row = f"Region Rebalance, Table {number}: {method}"
            rows[path] = {f"{row}, {backbone}, baseline": " / ".join(figures[:2])}
            rows[f"{path}_rr"] = {f"{row}-RR, {backbone}": " / ".join(figures[2:])}
    for line in TABLE_15.strip().splitlines():
        method, backbone, *figures = line.split()
        path = f"ADE20K/{STEMS[method]}_{STEMS[backbone]}_160k"
        row = f"DisAlign, Tables 6, 15: {method}, {backbone}"
        baseline = {f"{row}, baseline": " / ".join(figures[:2])}
        rows[path] = {**rows.get(path, {}), **baseline}
        rows[f"{path}_disalign"] = {f"{row}, DisAlign": " / ".join(figures[5:7])}
    return rows


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "configs").with_suffix("").as_posix()


def config_of(name: str) -> Path:
    return ROOT / "configs" / f"{name}.yaml"


each_row = pytest.mark.parametrize("path", ROWS, ids=name_of)


def test_every_row_with_its_figures():
    found = {}
    for path in ROWS:
        header = read_header(path, ROOT / "configs")
        if header.rows and path.parent.name != "ablations":
            found[name_of(path)] = dict(zip(header.rows, header.published, strict=True))
    assert found == rows_of_the_papers()
    # Tables 3, 4 and 7, what only DisAlign has of baselines, and its second stages.
    assert len(found) == 22 + 20 + 4 + 4 + 6


def test_figures_of_class_groups():
    for line in TABLE_15.strip().splitlines():
        method, backbone, *figures = line.split()
        name = f"ADE20K/{STEMS[method]}_{STEMS[backbone]}_160k"
        for ending, groups in (("", figures[2:5]), ("_disalign", figures[7:])):
            comment = comment_lines(config_of(name + ending))
            assert f"Its head / body / tail: {' / '.join(groups)} (s.s.)." in comment


def test_every_ablation_changes_one_key():
    found = set()
    for folder, length in (("ADE20K", "160k"), ("COCO-Stuff164K", "320k")):
        for path in (ROOT / "configs" / folder / "ablations").glob("*.yaml"):
            row, figure, key = ABLATIONS[path.stem]
            header = read_header(path, ROOT / "configs")
            assert header.rows[0].startswith(f"Region Rebalance, {row}: DeepLabv3+, ResNet-50c, ")
            assert header.published == (figure,)
            branch = "_rr" if path.stem.startswith("rr_") else ""
            base = config_of(f"{folder}/deeplabv3plus_R_50c_{length}{branch}")
            assert differences(path, loaded(base)) == {key, "OUTPUT_DIR"}
            # The name says the value.
            value = str(flat(loaded(path))[key])
            assert path.stem in (value, f"rr_weight_{value}", {"False": "rr_unbalanced"}.get(value))
            found.add((folder, path.stem))
    every = {("ADE20K", stem) for stem in ABLATIONS}
    assert found == every | {("COCO-Stuff164K", "rr_unbalanced")}


@pytest.mark.parametrize("path", RIVALS, ids=name_of)
def test_a_rival_adds_the_branch_to_its_baseline(path):
    baseline = loaded(path.with_stem(path.stem.removesuffix("_rr")))
    head, branch = "MODEL.SEM_SEG_HEAD.NAME", "MODEL.REGION_REBALANCE.BASE_HEAD_NAME"
    assert {head, "OUTPUT_DIR"} <= differences(path, baseline) <= {head, branch, "OUTPUT_DIR"}
    expected = {
        head: "RegionRebalanceHead",
        branch: baseline.MODEL.SEM_SEG_HEAD.NAME,
        "MODEL.REGION_REBALANCE.LOSS_WEIGHT": 0.3,
        "MODEL.REGION_REBALANCE.BALANCED": True,
    }
    assert_values(loaded(path), expected)


@pytest.mark.parametrize("path", SECOND_STAGES, ids=name_of)
def test_a_second_stage_follows_its_first(path):
    base = yaml.safe_load(path.read_text(encoding="utf-8"))["_BASE_"]
    first = loaded(path.parent / base)
    assert path.stem == f"{Path(base).stem}_disalign"
    assert f"Stage 2, after {base}" in " ".join(comment_lines(path))
    published = path.parent.name == "ADE20K"
    head = first.MODEL.SEM_SEG_HEAD.NAME
    expected = {
        "MODEL.SEM_SEG_HEAD.NAME": "DisAlignSemSegHead",
        "MODEL.DISALIGN.BASE_HEAD_NAME": head,
        "MODEL.DISALIGN.RHO": 0.3,
        "MODEL.WEIGHTS": f"{first.OUTPUT_DIR}/model_final.pth",
        "MODEL.TIMM.PRETRAINED": "",
        # Section B.2; on short recipes a quarter, chosen beforehand.
        "SOLVER.MAX_ITER": 8000 if published else first.SOLVER.MAX_ITER // 4,
        "SOLVER.IMS_PER_BATCH": 32 if published else first.SOLVER.IMS_PER_BATCH,
    }
    assert_values(loaded(path), expected)
    changed = differences(path, first)
    assert changed <= {*expected, "TEST.EXPECTED_RESULTS", "OUTPUT_DIR"}


def test_the_second_stages():
    deeplab = "deeplabv3plus_lite0"
    small = {f"{f}/{deeplab}{e}" for f in ("CamVid", "quickstart") for e in ("", "_rr")}
    large = {name for name in rows_of_the_papers() if name.endswith("_disalign")}
    both = {"ADE20K/deeplabv3plus_R_50c_160k_rr_disalign"}
    expected = large | both | {f"{name}_disalign" for name in small}
    assert {name_of(path) for path in SECOND_STAGES} == expected and len(expected) == 11


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


@each_row
def test_recipe_and_data(path):
    folder = path.relative_to(ROOT).parts[1]
    recipe = SWIN if "_swin_" in path.stem else BEIT if "_beit_" in path.stem else CNN
    classes = 150 if folder == "ADE20K" else 171
    first_iterations = int(FOLDERS[folder].removesuffix("k")) * 1000
    second = {"SOLVER.IMS_PER_BATCH": 32, "SOLVER.MAX_ITER": 8000}
    upper = "upernet" in path.stem or "ocrnet" in path.stem
    data = {
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": classes,
        "SOLVER.MAX_ITER": first_iterations,
        "TEST.EVAL_PERIOD": first_iterations // 10,
        "MODEL.TIMM.OUTPUT_STRIDE": 32 if upper else 8,
        "OUTPUT_DIR": f"output/{name_of(path)}",
    }
    assert_values(loaded(path), recipe | data | (second if path in SECOND_STAGES else {}))
    if path in SECOND_STAGES:
        return
    # Where the ImageNet weights come from.
    model = loaded(path).MODEL
    assert (model.WEIGHTS == "") == (model.TIMM.PRETRAINED == "timm")
    assert model.WEIGHTS in ("", f"weights/{model.TIMM.NAME}_imagenet.pth")
