# SPDX-License-Identifier: Apache-2.0
"""tools/generate_configs.py: the tree is what it writes, and what it writes."""

import shutil

import pytest
import yaml

from tests.config.common import CONFIGS
from tools.generate_configs import generate, main

DISALIGN = """\
# DisAlign, Table 7 (LVIS v0.5): Mask R-CNN, R-101, DisAlign*.
#   box AP 27.5, mask AP 28.2.
# DisAlign, Table 17 (LVIS v0.5, Mask R-CNN): ResNet-101, DisAlign*.
#   box AP 27.5, box APr 15.9, box APc 27.6, box APf 32.0, mask AP 28.2, mask APr 17.8,
#   mask APc 29.7, mask APf 30.5.
# DisAlign's release, model zoo (LVIS, trained anew): LVIS v0.5, MaskRCNN-R101-FPN-DisAlign, Cosine.
#   box AP 27.6, mask AP 28.1.
# Stage 2, after mask_rcnn_R_101_FPN_cosine.yaml.
# DisAlign's release trains the second stage for 4,500 iterations with the step at 4,000; the paper,
# which we follow, for 9,000 and 8,000.
# Measured here: not yet.
#   longtail train --config-file LVISv0.5/mask_rcnn_R_101_FPN_cosine_disalign.yaml --num-gpus 8
_BASE_: mask_rcnn_R_101_FPN_cosine.yaml
MODEL:
  META_ARCHITECTURE: DisAlignRCNN
  WEIGHTS: output/LVISv0.5/mask_rcnn_R_101_FPN_cosine/model_final.pth
SOLVER:
  STEPS: (8000,)
  MAX_ITER: 9000
OUTPUT_DIR: output/LVISv0.5/mask_rcnn_R_101_FPN_cosine_disalign
"""


def test_the_tree_is_what_the_tables_say():
    main(["--check"])


def test_a_leaf():
    name = "LVISv0.5/mask_rcnn_R_101_FPN_cosine_disalign.yaml"
    assert generate(CONFIGS)[CONFIGS / name] == DISALIGN


def test_commands():
    """Evaluation alone after a post hoc method; one process on small data."""
    for name, options in (
        ("ImageNet-LT/R_50_tau_norm.yaml", " --eval-only --num-gpus 8"),
        ("digits-LT/linear_ncm.yaml", " --eval-only"),
        ("CamVid/fcn_lite0_rr.yaml", ""),
    ):
        text = (CONFIGS / name).read_text(encoding="utf-8")
        assert f"\n#   longtail train --config-file {name}{options}\n_BASE_: " in text


def test_the_index():
    """Of two tables that differ in a digit the first; what was measured, and where."""
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert (
        "Table 8, Table 17; DisAlign's release: model zoo, evaluation | 23.9 / 24.2; 23.7" in text
    )
    measured = "25.5 ± 0.7 (benchmarks/results/sem_seg_methods.json)"
    assert f"EfficientNet-Lite0, with Region Rebalance |  | {measured} | checked |\n" in text


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


LEAF, LEAVES = "CamVid/deeplabv3plus_R_50c_rr.yaml", "tables/leaves.csv"
DICE = "ADE20K/ablations/dice.yaml"
UNPRINTED = "ADE20K/deeplabv3plus_R_50c_160k_rr_disalign.yaml"
PLANTED = {
    "a number of a table": ("tables/disalign_table_17.csv", "23.9", "23.8", "differ.*R_50_FPN_dis"),
    "a measured number": ("tables/measured_sem_seg.csv", "52.1", "52.2", "differ.*lite0_rr.yaml"),
    "a leaf edited by hand": (LEAF, "RegionRebalanceHead", "PSPHead", f"differ.*{LEAF}"),
    "the index": ("README.md", "41.80", "41.81", "README.md"),
    "a leaf of no line": (
        LEAVES,
        f"{UNPRINTED},",
        "ADE20K/x.yaml,",
        f"{UNPRINTED}.*no line of leaves",
    ),
    "a row of no leaf": (LEAVES, DICE, "ADE20K/d.yaml", f"'Dice Loss' names {DICE}"),
    "an unknown method": (LEAVES, "ocrnet_lite0.yaml,rr", "ocrnet_lite0.yaml,r2", "lacks 'r2'"),
}


@pytest.mark.parametrize(("name", "old", "new", "message"), PLANTED.values(), ids=PLANTED)
def test_notices(tmp_path, name, old, new, message):
    folder = tmp_path / "configs"
    shutil.copytree(CONFIGS, folder)
    main(["--check", "--configs", str(folder)])
    edit(folder / name, old, new)
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        main(["--check", "--configs", str(folder)])


def test_writes_a_new_leaf(tmp_path):
    """A line in the table of leaves is enough; a second run has nothing to write."""
    folder = tmp_path / "configs"
    shutil.copytree(CONFIGS, folder)
    line = "LVISv1/mask_rcnn_X_101_32x8d_FPN_rfs.yaml,mask_rcnn_X_101_32x8d_FPN.yaml,rfs,,New\n"
    edit(
        folder / LEAVES,
        "LVISv1/mask_rcnn_X_101_32x8d_FPN_disalign",
        f"{line}LVISv1/mask_rcnn_X_101_32x8d_FPN_disalign",
    )
    main(["--configs", str(folder)])
    path = folder / line.split(",")[0]
    assert path.read_text(encoding="utf-8").startswith("# New. In neither paper.\n")
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert written == {
        "_BASE_": "mask_rcnn_X_101_32x8d_FPN.yaml",
        "DATALOADER": {"SAMPLER_TRAIN": "RepeatFactorTrainingSampler"},
        "OUTPUT_DIR": "output/LVISv1/mask_rcnn_X_101_32x8d_FPN_rfs",
    }
    main(["--check", "--configs", str(folder)])
