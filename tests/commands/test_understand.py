# SPDX-License-Identifier: Apache-2.0
"""longtail configs, methods and info: what is there, which key chooses it, how large it is."""

import re
import types

import numpy as np
import pytest

from longtail.commands import main
from longtail.config import get_cfg, installed_projects, load_config
from longtail.config.projects import KINDS
from longtail.engine import model_info
from longtail.engine.methods import all_methods


def run(capsys, *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def test_configs_are_found_by_words(capsys):
    text = run(capsys, "configs", "camvid", "RR", "disalign")
    (line,) = [line for line in text.splitlines() if ".yaml" in line]
    assert line.startswith("CamVid/deeplabv3plus_lite0_rr_disalign.yaml")
    # "narrow" has rr in it, and no word that begins so.
    assert "upernet_swin_T_scratch.yaml" not in run(capsys, "configs", "camvid", "rr")
    # Table 3 of the Region Rebalance paper.
    text = run(capsys, "configs", "ADE20K/upernet_swin_T_160k_rr")
    assert "mIoU 45.02" in text and "Region Rebalance, Table 3" in text


def test_folders_of_configs(capsys):
    counts = dict(re.findall(r"^(\S+) +(\d+)$", run(capsys, "configs"), re.MULTILINE))
    assert counts["quickstart"] == "4" and {"ADE20K", "LVISv1", "CCP"} <= counts.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing_like_it"], "no config has 'nothing_like_it'"),
        (["ade20k", "camvid"], "no config has all of ade20k, camvid"),
    ],
)
def test_words_without_a_config(words, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        main(["configs", *words])


def test_every_method_is_chosen_by_keys_that_exist():
    for method in all_methods():
        for setting in method.settings.split(", "):
            key, _, value = setting.partition(" ")
            if setting != "with --eval-only" and "of the first stage" not in setting:
                cfg = load_config("", [key, value])
                assert value in str(cfg), setting


def test_methods_by_task(capsys):
    """By hand: what docs/methods.md compares, and the projects' own."""
    found = {(m.task, m.kind, m.name) for m in all_methods()}
    assert {kind for _, kind, _ in found} == {*KINDS}
    assert {task for task, _, name in found if name == "DisAlign"} == {"images", "pixels", "boxes"}
    assert {task for task, _, name in found if name == "Region Rebalance"} == {"pixels"}
    for task, names in {
        "images": {"cRT", "LWS", "ncm", "balanced_softmax", "ClassBalancedTrainingSampler"},
        "pixels": {"dice", "balanced_softmax_region_prior", "tau_norm", "cRT", "LWS"},
        "boxes": {"federated", "RepeatFactorTrainingSampler", "logit_adjustment", "cRT", "BAGS"},
    }.items():
        assert names <= {name for t, _, name in found if t == task}
        text = run(capsys, "methods", task)
        assert all(re.search(rf"\b{name}\b", text) for name in names)
    assert {task for task, _, name in found if name == "ncm"} == {"images", "pixels", "boxes"}
    assert len(installed_projects()) >= 2


def counted(monkeypatch, counts):
    stats = types.SimpleNamespace(image_count=np.array(counts))
    monkeypatch.setattr(model_info, "get_class_stats", lambda names: stats)


def test_the_size_of_the_usual_resnet_32():
    """0.46 million parameters and 69 million multiply-adds, as published; a classifier of 100."""
    deployed = model_info.measure_deployed(load_config("CIFAR100-LT/linear.yaml"))
    assert deployed.size == (32, 32)
    assert deployed.parameters["backbone"] == 464_154 - 650
    assert deployed.parameters["classifier"] == 100 * 64 + 100
    assert deployed.flops["backbone"] == pytest.approx(69e6, rel=0.02)


@pytest.mark.parametrize(("optimizer", "states"), [("SGD", 1), ("AdamW", 2)])
def test_memory_of_a_linear_step(monkeypatch, optimizer, states):
    """Weights, gradients and states of 4 bytes; a convolution keeps its input for each image."""
    counted(monkeypatch, [5] * 100)
    cfg = load_config(
        "CIFAR100-LT/linear.yaml", ["SOLVER.OPTIMIZER", optimizer, "DATASETS.TRAIN", "()"]
    )
    training = model_info.measure_training(cfg)
    total = 464_154 - 650 + 6500
    assert (training.parameters, training.trained) == (total, total)
    assert training.weights == 4 * total * (2 + states)
    # 31 convolutions: 1 of 3 x 32^2, 10 of 16 x 32^2, 10 of 32 x 16^2 and 10 of 64 x 8^2 outputs
    # at least, each kept once, and their normalised values once more.
    outputs = 11 * 16 * 32**2 + 10 * 32 * 16**2 + 10 * 64 * 8**2
    assert 4 * outputs < training.activations < 4 * 4 * outputs


def test_info_of_a_second_stage(monkeypatch, capsys):
    counted(monkeypatch, [1, 0, 2] + [1] * 29)
    text = run(
        capsys, "info", "IoTKITs-LT/mask_rcnn_lite0_FPN_disalign.yaml", "DATASETS.TRAIN", "()"
    )
    assert text.startswith("IoTKITs-LT, on a CPU: Mask R-CNN, EfficientNet-Lite0, DisAlign\n")
    assert "  MODEL.META_ARCHITECTURE: 'DisAlignRCNN'\n" in text
    assert "  MODEL.DISALIGN.RHO" not in text and get_cfg().MODEL.DISALIGN.RHO == 0.8
    assert "0.00 M of them are trained" in text


def test_without_the_training_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    text = run(capsys, "info", "digits-LT/linear.yaml")
    assert "in training: not known, " in text and "digits_lt_train" in text
