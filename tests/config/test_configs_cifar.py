# SPDX-License-Identifier: Apache-2.0
"""CIFAR-100-LT: LDAM's recipe, a fifth of it, and what comes after a first stage."""

import math

import pytest

from tests.config.common import leaves_in, loaded

# ceil(10,847 images / 128): iterations of an epoch.
EPOCH = math.ceil(10847 / 128)
FOLDERS = {"CIFAR100-LT": 200, "CIFAR100-LT-40e": 40}
LINEAR = ("linear_crt", "linear_lws", "linear_bound", "linear_disalign")
SECOND_STAGES = (*LINEAR, "cosine_disalign")
POST_HOC = ("linear_ncm", "linear_tau_norm", "linear_logit_adjustment")


@pytest.mark.parametrize("folder", FOLDERS)
def test_first_stages(folder):
    """The rate falls after 80 % and 90 %, the warm-up takes 5 epochs."""
    epochs = FOLDERS[folder]
    names = {name.split("/")[1] for name in leaves_in(folder)}
    # DisAlign from the prior is in the short recipe alone.
    prior = {"linear_disalign_prior"} if epochs == 40 else set()
    assert len(names - prior) == 16 and names > {*SECOND_STAGES, *POST_HOC}
    for name in names - {*SECOND_STAGES} - prior:
        cfg = loaded(f"{folder}/{name}")
        assert cfg.MODEL.BACKBONE.NAME == "CifarResNet" and cfg.MODEL.CIFAR_RESNET.DEPTH == 32
        assert epochs * EPOCH == cfg.SOLVER.MAX_ITER
        assert (epochs * EPOCH * 8 // 10, epochs * EPOCH * 9 // 10) == cfg.SOLVER.STEPS
        assert cfg.SOLVER.WARMUP_ITERS == 5 * EPOCH and cfg.SOLVER.GAMMA == 0.01
        assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH) == (0.1, 128)
        assert cfg.SOLVER.WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY_NORM == 2e-4
        assert (cfg.INPUT.CLASSIFICATION.SIZE, cfg.INPUT.CLASSIFICATION.PAD) == (32, 4)
        assert (cfg.MODEL.POST_HOC.METHOD != "") == (name in POST_HOC)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", SECOND_STAGES)
def test_second_stages(folder, name):
    """10 epochs from 0.1 to 0 by a cosine, from the baseline's weights; the bound's are longer."""
    cfg = loaded(f"{folder}/{name}")
    first = name.split("_")[0]
    assert f"output/{folder}/{first}/model_final.pth" == cfg.MODEL.WEIGHTS
    images = 50000 if name == "linear_bound" else 10847
    assert abs(cfg.SOLVER.MAX_ITER * 128 / images - 10) < 0.05 and cfg.SOLVER.WARMUP_ITERS == 0
    assert (
        f"cifar100_lt_if100_{'balanced' if name == 'linear_bound' else 'train'}",
    ) == cfg.DATASETS.TRAIN
    assert (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.BASE_LR) == ("WarmupCosineLR", 0.1)
