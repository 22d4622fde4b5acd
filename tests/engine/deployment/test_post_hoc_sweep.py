# SPDX-License-Identifier: Apache-2.0
"""Each strength of one pass has the metrics of an evaluation of its own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from longtail.analysis.runs import read_run
from longtail.engine import Trainer
from longtail.engine.deployment.post_hoc import apply_post_hoc, post_hoc_change
from longtail.engine.deployment.post_hoc_sweep import evaluate_strengths, factor_and_shift
from tests.messages import raises_naming
from tests.tiny import register_stripes, tiny_config
from tests.tiny_classification import (
    TEST_COUNTS,
    classification_config,
    register_colors,
    unregister,
)
from tests.tiny_detection import CASCADE, detector_config, register_rectangles

COLORS, STRIPES, RECTANGLES = "sweep_colors", "sweep_stripes", "sweep_rectangles"
KEYS = {"tau_norm": "MODEL.POST_HOC.TAU", "logit_adjustment": "MODEL.POST_HOC.LAMBDA"}
VALUES = (0.0, 0.6, 2.0)


@pytest.fixture(scope="module", autouse=True)
def data_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        register_colors(COLORS, folder / COLORS)
        register_colors(f"{COLORS}_val", folder / "val", TEST_COUNTS, seed=1, training_set=COLORS)
        register_stripes(STRIPES, folder / STRIPES, 4)
        register_stripes(f"{STRIPES}_val", folder / "stripes_val", 3, seed=1)
        register_rectangles(RECTANGLES, folder / RECTANGLES, 4)
        yield
    unregister(COLORS, f"{COLORS}_val", STRIPES, f"{STRIPES}_val", RECTANGLES)


def configs(make, name, folder, method, *options):
    """A config for each strength, with folders of its own."""
    found = []
    for value in VALUES:
        sets = ["DATASETS.TRAIN", (name,), "DATASETS.TEST", (f"{name}_val",)]
        changed = ["MODEL.POST_HOC.METHOD", method, KEYS[method], value, *options]
        output = ["OUTPUT_DIR", str(folder / f"{value}")]
        found.append(make(folder, [*sets, *changed, *output]))
    return found


def model_of(cfg):
    """A model whose classifier sees differences, and classes of different frequency in scores."""
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    layer = model.classifier if hasattr(model, "classifier") else model.sem_seg_head.predictor
    with torch.no_grad():
        layer.weight.copy_(
            torch.randn_like(layer.weight)
            * torch.tensor([3.0, 1.0, 0.3]).view(-1, *[1] * (layer.weight.ndim - 1))
        )
        layer.bias.copy_(torch.tensor([0.5, 0.2, 0.1]))
    return model


def separately(cfgs, folder):
    """The runs of as many evaluations, each on a model of its own."""
    for cfg in cfgs:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = str(folder / f"alone_{cfg.OUTPUT_DIR.rsplit('/')[-1]}")
        model = model_of(cfg)
        apply_post_hoc(cfg, model)
        Trainer.test(cfg, model)
    return [read_run(folder / f"alone_{value}") for value in VALUES]


@pytest.mark.parametrize("method", KEYS)
def test_images_are_equal_bit_for_bit(tmp_path, method):
    cfgs = configs(classification_config, COLORS, tmp_path, method)
    model = model_of(cfgs[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate_strengths(cfgs, model)
    together = [read_run(tmp_path / f"{value}") for value in VALUES]
    for one, alone in zip(together, separately(cfgs, tmp_path), strict=True):
        assert one.metrics() == alone.metrics()
        np.testing.assert_array_equal(
            one.evaluation().confusion().toarray(), alone.evaluation().confusion().toarray()
        )
    # The strengths do something, and the model is as before.
    assert (
        len({json.dumps(run.evaluation().confusion().toarray().tolist()) for run in together}) > 1
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    # Each report has the config that it is of.
    assert [run.config[KEYS[method]] for run in together] == list(VALUES)


@pytest.mark.parametrize("method", KEYS)
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_pixels_are_equal_but_for_rounding(tmp_path, method, mode):
    windows = ["TEST.SEM_SEG.MODE", mode, "TEST.SEM_SEG.CROP_SIZE", (24, 24)]
    windows += ["TEST.SEM_SEG.STRIDE", (16, 16)]
    cfgs = configs(tiny_config, STRIPES, tmp_path, method, *windows)
    model = model_of(cfgs[0])
    evaluate_strengths(cfgs, model)
    together = [read_run(tmp_path / f"{value}") for value in VALUES]
    found = [run.evaluation().confusion().toarray() for run in together]
    alone = [run.evaluation().confusion().toarray() for run in separately(cfgs, tmp_path)]
    # 3 images of 32 x 31 labelled pixels, of which two may be a tie.
    assert max(np.abs(a - b).sum() for a, b in zip(found, alone, strict=True)) <= 4
    assert all(counts.sum() == 3 * 32 * 31 for counts in found)
    assert np.abs(found[0] - found[-1]).sum() > 50


def test_logits_change_by_a_factor_and_a_shift(tmp_path):
    weight, bias, x = torch.randn(3, 5), torch.randn(3), torch.randn(5)
    for method in KEYS:
        cfgs = configs(classification_config, COLORS, tmp_path, method)
        change = post_hoc_change(cfgs[1], model_of(cfgs[1]))[1]
        factor, shift = (t.flatten() for t in factor_and_shift(change, weight, bias))
        changed, new_bias = change(weight, bias)
        torch.testing.assert_close(
            factor * (weight @ x + bias) + shift,
            (changed @ x + new_bias).double(),
            rtol=1e-5,
            atol=1e-5,
        )


@pytest.mark.parametrize("overrides", [[], CASCADE], ids=["one head", "cascade"])
def test_boxes_are_equal_bit_for_bit_and_share_the_backbone(tmp_path, overrides):
    """The results files are the same bytes; the backbone runs once an image."""

    def model_of(cfg):
        torch.manual_seed(0)
        model = Trainer.build_model(cfg).eval()
        for name, parameter in model.named_parameters():
            if "cls_score" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        return model

    cfgs = []
    for value in VALUES:
        given = ["MODEL.POST_HOC.METHOD", "norcal", "MODEL.POST_HOC.GAMMA", value]
        given += ["OUTPUT_DIR", str(tmp_path / f"{value}"), "TEST.LVIS.KEEP_ALL_DETECTIONS", True]
        sets = ["DATASETS.TRAIN", (RECTANGLES,), "DATASETS.TEST", (RECTANGLES,)]
        cfgs.append(detector_config(tmp_path, [*sets, *given, *overrides]))
    model, calls = model_of(cfgs[0]), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.backbone.bottom_up.register_forward_hook(lambda *_: calls.append(1))
    evaluate_strengths(cfgs, model)
    assert len(calls) == 4
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    found = []
    for cfg in cfgs:
        alone = model_of(cfg)
        apply_post_hoc(cfg, alone)
        cfg = cfg.clone()
        cfg.defrost()
        together, cfg.OUTPUT_DIR = cfg.OUTPUT_DIR, f"{cfg.OUTPUT_DIR}_alone"
        Trainer.test(cfg, alone)
        place = f"inference/{RECTANGLES}/lvis_instances_results.json"
        found.append((Path(together) / place).read_bytes())
        assert found[-1] == (Path(cfg.OUTPUT_DIR) / place).read_bytes() != b"[]"
    assert len(set(found)) == len(VALUES)


def test_what_has_no_common_pass_is_said(tmp_path):
    cfg = classification_config(
        tmp_path, ["DATASETS.TRAIN", (COLORS,), "MODEL.POST_HOC.METHOD", "ncm"]
    )
    with raises_naming(ValueError, "MODEL.POST_HOC.METHOD", "ncm"):
        evaluate_strengths([cfg], model_of(cfg))
    # A convolution, but one of other directions.
    options = ["MODEL.POST_HOC.NCM_DISTANCE", "cosine", "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2"]]
    sets = ["DATASETS.TRAIN", (STRIPES,), "DATASETS.TEST", (STRIPES,)]
    cfg = tiny_config(tmp_path, [*sets, "MODEL.POST_HOC.METHOD", "ncm", *options])
    with raises_naming(ValueError, "MODEL.POST_HOC.METHOD", "--weights"):
        evaluate_strengths([cfg], model_of(cfg))
    cfgs = configs(tiny_config, STRIPES, tmp_path, "tau_norm", "TEST.AUG.ENABLED", True)
    with raises_naming(ValueError, "TEST.AUG.ENABLED", "--weights"):
        evaluate_strengths(cfgs, model_of(cfgs[0]))
