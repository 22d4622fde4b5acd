# SPDX-License-Identifier: Apache-2.0
"""Post hoc methods of detectors: NorCal, LogN, and scores mapped by the file of a calibration."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from longtail.engine import Trainer
from longtail.engine.deployment.post_hoc import apply_post_hoc
from longtail.engine.deployment.score_calibration import check_calibration_file
from longtail.evaluation.calibration_file import Calibration
from longtail.evaluation.score_maps import Isotonic, Parametric
from tests.messages import raises_naming
from tests.tiny import register_stripes, tiny_config
from tests.tiny_classification import unregister
from tests.tiny_detection import CASCADE, CLASSES, detector_config, register_rectangles

NAME, OTHER, STRIPES = "score_calibration_train", "score_calibration_val", "score_calibration_maps"
KEYS = {key: f"MODEL.POST_HOC.{key}" for key in ("METHOD", "GAMMA", "FILE")}
COSINE = ["MODEL.ROI_BOX_HEAD.CLASSIFIER", "cosine"]
MAPS = (Parametric(0.5, 0.5, -1.0), Isotonic((0.0, 1.0), (0.9, 1.0)), Parametric(2.0, 1.0, 0.3))


@pytest.fixture(scope="module", autouse=True)
def data_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score_calibration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        register_rectangles(NAME, folder / NAME, 6)
        register_rectangles(OTHER, folder / OTHER, 3, seed=1)
        register_stripes(STRIPES, folder / STRIPES, 2)
        yield
    unregister(NAME, OTHER, STRIPES)


def built(folder, *overrides):
    """A detector with a classifier that tells classes apart."""
    sets = ["DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (OTHER,)]
    cfg = detector_config(folder, [*sets, *overrides])
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    predictors = model.roi_heads.box_predictor
    predictors = predictors if isinstance(predictors, torch.nn.ModuleList) else [predictors]
    for layer in (predictor.cls_score for predictor in predictors):
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return cfg, model


def saved(folder, dataset=NAME, names=CLASSES, maps=MAPS):
    path = folder / "calibration.json"
    Calibration("platt", dataset, tuple(names), maps).write(path)
    return str(path)


def by_hand(label, score):
    if label == 1:
        return 0.9 + 0.1 * score
    # 1 has no logit.
    score = min(max(score, 1e-7), 1 - 1e-7)
    a, b, c = {0: (0.5, 0.5, -1.0), 2: (2.0, 1.0, 0.3)}[label]
    odds = np.exp(a * np.log(score) - b * np.log(1 - score) + c)
    return odds / (1 + odds)


@pytest.mark.parametrize("overrides", [[], CASCADE, COSINE], ids=["linear", "cascade", "cosine"])
def test_detections_have_mapped_scores_and_are_otherwise_the_same(tmp_path, overrides):
    given = [KEYS["METHOD"], "score_calibration", KEYS["FILE"], saved(tmp_path)]
    cfg, model = built(tmp_path, *overrides, *given)
    inputs = next(iter(Trainer.build_test_loader(cfg, OTHER)))
    with torch.no_grad():
        before = model(inputs)[0]["instances"]
        apply_post_hoc(cfg, model)
        after = model(inputs)[0]["instances"]
    assert len(before) == len(after) > 3 and len(before.pred_classes.unique()) > 1
    pairs = zip(before.pred_classes.tolist(), before.scores.double().tolist(), strict=True)
    mapped = np.array([by_hand(*pair) for pair in pairs])
    order = np.argsort(-mapped, kind="stable")
    np.testing.assert_allclose(after.scores.numpy(), mapped[order], atol=2e-6)
    assert (after.scores.diff() <= 0).all()
    where = {tuple(b): s for b, s in zip(before.pred_boxes.tensor.tolist(), mapped, strict=True)}
    for box, score in zip(after.pred_boxes.tensor.tolist(), after.scores.tolist(), strict=True):
        assert where[tuple(box)] == pytest.approx(score, abs=2e-6) or len(where) < len(before)


def test_norcal_shifts_by_images_of_the_training_set(tmp_path):
    cfg, model = built(tmp_path, KEYS["METHOD"], "norcal", KEYS["GAMMA"], 0.5)
    layer = model.roi_heads.box_predictor.cls_score
    weight, bias = layer.weight.clone(), layer.bias.clone()
    apply_post_hoc(cfg, model)
    # Of 6 images all have red, 3 green, 1 blue; the background stays.
    expected = bias.double() - 0.5 * torch.tensor([6, 3, 1, 1]).double().log()
    torch.testing.assert_close(layer.bias.double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(layer.weight, weight)


def test_logn_gives_the_logits_of_training_rois_the_deviation_1(tmp_path):
    """Collected by a hook while the same method runs once more on the changed model."""
    cfg, model = built(tmp_path, KEYS["METHOD"], "logn")
    layer, seen = model.roi_heads.box_predictor.cls_score, []
    hook = layer.register_forward_hook(lambda *call: seen.append(call[-1].double()))
    apply_post_hoc(cfg, model)
    before = torch.cat(seen)
    seen.clear()
    # The RoIs are drawn with a seed of their own: the same ones.
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    apply_post_hoc(cfg, model)
    hook.remove()
    after = torch.cat(seen)
    assert len(after) == len(before) > 20
    mean, deviation = before[:, :3].numpy().mean(axis=0), before[:, :3].numpy().std(axis=0)
    expected = (before[:, :3].numpy() - mean + mean.min()) / deviation
    np.testing.assert_allclose(after[:, :3].numpy(), expected, atol=1e-3)
    assert torch.equal(before[:, 3], after[:, 3])
    # Once more only shifts and scales within rounding: deviations are 1, means differ.
    torch.testing.assert_close(layer.weight, state["weight"], rtol=1e-3, atol=1e-3)
    assert not model.training


def test_what_is_refused(tmp_path):
    method = [KEYS["METHOD"], "score_calibration"]

    def check(*overrides):
        check_calibration_file(detector_config(tmp_path, [*method, *overrides]))

    with raises_naming(ValueError, "MODEL.POST_HOC.FILE"):
        check("DATASETS.TEST", (OTHER,))
    path = saved(tmp_path)
    check("DATASETS.TEST", (OTHER,), KEYS["FILE"], path)
    # Never on what it was fitted to.
    with raises_naming(ValueError, path, NAME):
        check("DATASETS.TEST", (OTHER, NAME), KEYS["FILE"], path)
    with raises_naming(ValueError, path, "sky"):
        check("DATASETS.TEST", (OTHER,), KEYS["FILE"], saved(tmp_path, names=("sky", "b", "c")))
    cfg, model = built(tmp_path, *method, KEYS["FILE"], saved(tmp_path, names="ab", maps=MAPS[:2]))
    with raises_naming(ValueError, path, "2", "3"):
        apply_post_hoc(cfg, model)
    (tmp_path / "calibration.json").write_text('{"format": 1}')
    with raises_naming(ValueError, path):
        apply_post_hoc(cfg, model)
    cfg, model = built(tmp_path, KEYS["METHOD"], "logn", *CASCADE)
    with raises_naming(ValueError, "logn", "norcal"):
        apply_post_hoc(cfg, model)


@pytest.mark.parametrize(
    ("method", "what"),
    [("norcal", "for boxes"), ("logn", "for boxes"), ("score_calibration", "for detection")],
)
def test_methods_of_detection(tmp_path, method, what):
    given = [KEYS["METHOD"], method, KEYS["FILE"], saved(tmp_path), "DATASETS.TRAIN", (STRIPES,)]
    cfg = tiny_config(tmp_path, given)
    with raises_naming(ValueError, method, what):
        apply_post_hoc(cfg, Trainer.build_model(cfg).eval())
    assert STRIPES in DatasetCatalog.list()
