"""The LVIS configs: their recipe, their two stages, and the figures that they name."""

import re
from pathlib import Path

import pytest
import yaml
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg

from longtail.data.datasets.lvis import CAMVID_OBJECTS
from longtail.data.synthetic import LVIS_CONFIG
from longtail.data.synthetic.lvis import category_names
from tests.config.test_configs import ROOT, first_comment, loaded

CONFIGS = ROOT / "configs"
LVIS = sorted(p for p in CONFIGS.glob("LVIS*/*.yaml") if not p.name.startswith("Base-"))
PUBLISHED = [p for p in LVIS if p.parent.name in ("LVISv0.5", "LVISv1")]
SECOND_STAGES = [p for p in LVIS if p.stem.endswith("_disalign")]
# Rows of Table 8 on v0.5 that differ by the loss of the box classifier.
CLASS_LOSSES = {"focal": "focal", "eql": "eql", "bags_coco": "bags"}
# What a second stage may say differently from its first.
STAGE_KEYS = {"MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS", "OUTPUT_DIR"}
STAGE_KEYS |= {f"SOLVER.{key}" for key in ("STEPS", "MAX_ITER", "CHECKPOINT_PERIOD")}
# Short trainings that are in no paper.
SHORT_STAGE_KEYS = STAGE_KEYS | {"SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS"}
FIGURES = re.compile(
    r"(?:Expected AP: (?:box (\d+\.\d), mask \d+\.\d|not published)"
    r"|Measured AP: (?:box \d+\.\d, mask \d+\.\d \(benchmarks/results/\w+\.json\)|not yet))\."
)


def ids(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


each_config = pytest.mark.parametrize("path", LVIS, ids=ids)


def flat(cfg: CfgNode, prefix: str = "") -> dict:
    """Values by their dotted keys."""
    values = {}
    for key, value in cfg.items():
        nested = flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else None
        values.update({f"{prefix}{key}": value} if nested is None else nested)
    return values


def differences(path: Path, other: CfgNode) -> set[str]:
    own, others = flat(loaded(path)), flat(other)
    return {key for key in own.keys() | others.keys() if own.get(key) != others.get(key)}


def test_every_row_of_the_tables():
    """Tables 7, 17, 18 (v0.5), 9 (v1): two detectors, three backbones, two heads, two stages."""
    for folder in ("LVISv0.5", "LVISv1"):
        stems = {p.stem for p in PUBLISHED if p.parent.name == folder}
        for detector in ("mask", "cascade"):
            for backbone in ("R_50", "R_101", "X_101_32x8d"):
                for head in ("", "_cosine"):
                    stem = f"{detector}_rcnn_{backbone}_FPN{head}"
                    assert {stem, f"{stem}_disalign"} <= stems
        # Table 8.
        for head in ("", "_cosine"):
            stem = f"mask_rcnn_R_50_FPN{head}"
            assert {f"{stem}_rfs", f"{stem}_coco", f"{stem}_coco_disalign"} <= stems
        losses = {f"mask_rcnn_R_50_FPN_{name}" for name in CLASS_LOSSES}
        assert len(stems) == 24 + 6 + len(losses) * (folder == "LVISv0.5")
        assert losses <= stems or folder == "LVISv1"


@each_config
def test_states_its_figure(path):
    comment = first_comment(path)
    match = FIGURES.search(comment)
    assert match, comment
    assert match[0].startswith("Expected") == (path in PUBLISHED)
    assert ("Table" in comment) == (match[1] is not None)


def assert_values(cfg: CfgNode, expected: dict) -> None:
    values = flat(cfg)
    assert {key: values[key] for key in expected} == expected


@each_config
def test_says_what_its_name_says(path):
    stem = path.stem
    cascade = stem.startswith("cascade")
    expected = {
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.MASK_ON": True,
        "MODEL.ROI_HEADS.NAME": "LongTailCascadeROIHeads" if cascade else "LongTailROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": cascade or "lite0" in stem,
        "MODEL.ROI_BOX_HEAD.CLASSIFIER": "cosine" if "_cosine" in stem else "linear",
        "MODEL.ROI_BOX_HEAD.CLASS_LOSS": CLASS_LOSSES.get(
            stem.partition("_FPN_")[2], "cross_entropy"
        ),
        "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
        "OUTPUT_DIR": f"output/{ids(path)}",
    }
    if cascade:
        expected["MODEL.RPN.POST_NMS_TOPK_TRAIN"] = 2000
    if stem.endswith("_disalign"):
        expected["MODEL.META_ARCHITECTURE"] = "DisAlignRCNN"
    if stem.endswith("_rfs"):
        expected["DATALOADER.SAMPLER_TRAIN"] = "RepeatFactorTrainingSampler"
    if "lite0" not in stem:
        expected["MODEL.RESNETS.DEPTH"] = 50 if "_R_50_" in stem else 101
        expected["MODEL.RESNETS.NUM_GROUPS"] = 32 if "_X_101_" in stem else 1
    assert_values(loaded(path), expected)


@pytest.mark.parametrize("path", SECOND_STAGES, ids=ids)
def test_second_stage_follows_its_first(path):
    cfg = loaded(path)
    base = yaml.safe_load(path.read_text(encoding="utf-8"))["_BASE_"]
    first = path.parent / base
    assert first.stem + "_disalign" == path.stem
    assert f"Stage 2, after {base}." in first_comment(path)
    stage_1 = loaded(first)
    assert stage_1.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert_values(cfg, {"MODEL.WEIGHTS": f"{stage_1.OUTPUT_DIR}/model_final.pth"})
    changed = differences(path, stage_1)
    allowed = STAGE_KEYS if path in PUBLISHED else SHORT_STAGE_KEYS
    assert {"MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS", "OUTPUT_DIR"} <= changed <= allowed
    assert cfg.MODEL.DISALIGN.RHO == 0.8


@pytest.mark.parametrize("path", PUBLISHED, ids=ids)
def test_recipe_of_the_paper(path):
    """Schedule, sizes and test settings of section C.2 and Table 8."""
    steps, max_iter = {
        "LVISv0.5": ((60_000, 80_000), 90_000),
        "LVISv1": ((120_000, 160_000), 180_000),
    }[path.parent.name]
    if path in SECOND_STAGES:
        steps, max_iter = (8_000,), 9_000
    expected = {
        "SOLVER.OPTIMIZER": "SGD",
        "SOLVER.BASE_LR": 0.02,
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
    assert_values(loaded(path), expected)


OF_DETECTRON2 = [
    ("LVISv0.5", "mask_rcnn_R_50_FPN", "LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"),
    ("LVISv0.5", "mask_rcnn_R_101_FPN", "LVISv0.5-InstanceSegmentation/mask_rcnn_R_101_FPN_1x"),
    ("LVISv1", "mask_rcnn_R_50_FPN", "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"),
    (
        "LVISv1",
        "mask_rcnn_X_101_32x8d_FPN",
        "LVISv1-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x",
    ),
    ("LVISv0.5", "cascade_rcnn_R_50_FPN", "Misc/cascade_mask_rcnn_R_50_FPN_1x"),
]


@pytest.mark.parametrize(("folder", "stem", "other"), OF_DETECTRON2)
def test_against_detectron2s_own(folder, stem, other):
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
    shared = flat(theirs)
    changed = differences(CONFIGS / folder / f"{stem}.yaml", theirs) & shared.keys()
    assert {key for key in changed if key.startswith(("MODEL.", "INPUT."))} <= own_keys


def test_weights_from_coco():
    """The model that detectron2 names for the config that the COCO rows start from."""
    url = model_zoo.get_checkpoint_url("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    for folder in ("LVISv0.5", "LVISv1"):
        weights = loaded(CONFIGS / folder / "mask_rcnn_R_50_FPN_coco.yaml").MODEL.WEIGHTS
        assert weights.startswith("detectron2://")
        assert url.endswith(weights.removeprefix("detectron2://"))


@pytest.mark.parametrize("backbone", ["lite0", "R_50"])
def test_number_of_generated_and_camvid_classes(backbone):
    """Of what the tools write without options."""
    for folder, count in (
        ("LVIS-Synthetic", len(category_names(LVIS_CONFIG))),
        ("LVIS-CamVid", len(CAMVID_OBJECTS)),
    ):
        cfg = loaded(CONFIGS / folder / f"mask_rcnn_{backbone}_FPN.yaml")
        assert_values(cfg, {"MODEL.ROI_HEADS.NUM_CLASSES": count})


def test_small_configs_read_images_as_lite0_does():
    small = loaded(CONFIGS / "LVIS-Synthetic/mask_rcnn_lite0_FPN.yaml")
    other = loaded(CONFIGS / "quickstart/deeplabv3plus_lite0.yaml")
    assert small.MODEL.PIXEL_MEAN == other.MODEL.PIXEL_MEAN
    assert small.MODEL.PIXEL_STD == other.MODEL.PIXEL_STD
    assert small.INPUT.FORMAT == other.INPUT.FORMAT
    assert small.MODEL.TIMM.NAME == other.MODEL.TIMM.NAME
    assert small.MODEL.TIMM.NORM == "FrozenBN" and small.MODEL.TIMM.PRETRAINED == "package"
