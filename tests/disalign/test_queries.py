# SPDX-License-Identifier: Apache-2.0
"""The second stage of Mask2Former: calibrated queries, and both stages through the trainer."""

import argparse

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from disalign.folding import fold_calibration
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from longtail.data.statistics.class_stats import ClassStats
from longtail.engine import SemanticSegmentorWithTTA, Trainer
from longtail.engine.deployment.post_hoc import apply_post_hoc
from longtail.engine.inference.build import build_inference
from longtail.engine.run import run_process
from tests.disalign.detectors import disturb, start, tensors
from tests.messages import raises_naming
from tests.tiny import register_stripes, tiny_config, tiny_config_file

pytest.importorskip("transformers")

from tests.queries import (
    OPTIONS,
    QUERIES,
    K,
    bare_model,
    batch,
    build,
    head_config,
    load_bare,
    maps,
    pairs,
)

WEIGHTS = torch.tensor([0.2, 0.9, 1.9])
SECOND = {"SEM_SEG_HEAD.NAME": "DisAlignQueryHead", "DISALIGN.BASE_HEAD_NAME": "Mask2FormerHead"}
NAME = "disalign_query_stripes"


def second_head(**overrides):
    own = {key.replace(".", "__"): value for key, value in SECOND.items()}
    head = load_bare(build(head_config(**own, **overrides)))
    head.class_weights[:K] = WEIGHTS
    return head


@pytest.fixture(scope="module")
def features():
    with torch.no_grad():
        return maps(bare_model().eval(), batch()[0])


@pytest.fixture
def first(features):
    with torch.no_grad():
        head = load_bare(build(head_config())).eval()
        return head, head.queries(features)


def test_at_its_start_it_is_the_first_stage_bit_for_bit(first, features):
    second = second_head().eval()
    with torch.no_grad():
        expected = first[0](features)[0]
        assert torch.equal(second(features)[0], expected)
        assert (disturb(second)(features)[0] - expected).abs().max() > 0.1


def calibrated_by_hand(second, queries):
    """Eq. 5 as printed, for the K classes; the last score stays."""
    z, x, part = queries.class_logits[-1].double(), queries.states.double(), second.calibration
    sigma = (x @ part.confidence_layer.weight.double().T + part.confidence_layer.bias).sigmoid()
    alpha, beta = part.alpha.double(), part.beta.double()
    z = z.clone()
    z[..., :K] = sigma * (alpha * z[..., :K] + beta) + (1 - sigma) * z[..., :K]
    return z


def test_the_classes_of_a_query_are_calibrated_and_no_object_is_not(first, features):
    head, queries = first
    second = disturb(second_head()).eval()
    with torch.no_grad():
        z = calibrated_by_hand(second, queries)
        assert torch.equal(z[..., K], queries.class_logits[-1][..., K].double())
        expected = head.log_scores(z, queries.mask_logits[-1].double())
        given = second(features)[0].double()
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)


def test_the_matching_is_the_cheapest_one_at_points_of_the_masks(first):
    """Costs at every pixel, not at some points, of maps that are sure of themselves."""
    head, queries = first
    labels = batch()[1]
    masks = torch.full((2, QUERIES, 64, 96), -9.0)
    truth = [(0, 4, 1), (0, 2, 0), (0, 0, 2), (1, 5, 2)]
    for n, q, c in truth:
        masks[n, q][labels[n] == c] = 9.0
    expected = torch.full((2, QUERIES), K)
    for n, q, c in truth:
        expected[n, q] = c
    logits = torch.zeros(2, QUERIES, K + 1)
    queries = type(queries)(queries.states, [logits], [masks])
    assert torch.equal(head.matched_classes(queries, labels), expected)
    # Equal masks: the class decides, with the costs -p alone.
    logits = torch.randn(2, QUERIES, K + 1, generator=torch.Generator().manual_seed(1))
    queries = type(queries)(queries.states, [logits], [torch.zeros_like(masks)])
    rows, columns = linear_sum_assignment(-logits[0].softmax(-1)[:, :K])
    expected = torch.full((QUERIES,), K)
    expected[rows] = torch.as_tensor(columns)
    assert torch.equal(head.matched_classes(queries, labels)[0], expected)


@pytest.mark.parametrize("weighted_mean", [True, False])
def test_the_loss_is_the_weighted_one_of_the_matched_classes(first, features, weighted_mean):
    head, queries = first
    second = disturb(second_head(DISALIGN__WEIGHTED_MEAN=weighted_mean)).train()
    labels = batch()[1]
    torch.manual_seed(5)
    classes = head.matched_classes(queries, labels)
    w = torch.tensor([0.2, 0.9, 1.9, 0.1]).double()[classes]
    assert (classes < K).sum() == 4
    z = calibrated_by_hand(second, queries)
    terms = -z.log_softmax(-1).gather(-1, classes[..., None])[..., 0]
    expected = (w * terms).sum() / (w.sum() if weighted_mean else 2 * QUERIES)
    torch.manual_seed(5)
    with EventStorage():
        logits, losses = second(features, labels)
    assert logits is None and [*losses] == ["loss_cross_entropy"]
    assert losses["loss_cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)
    divisor = second.loss_normalizers(labels)["loss_cross_entropy"].item()
    assert divisor == pytest.approx(w.sum().item() if weighted_mean else 2 * QUERIES, rel=1e-6)


def test_a_step_moves_the_statistics_of_a_released_confidence_once(features):
    second = second_head(DISALIGN__CONFIDENCE_BRANCH="released").train()
    with EventStorage():
        second(features, batch()[1])
    assert second.calibration.confidence_norm.num_batches_tracked == 1


def test_weights_count_the_images_that_show_a_class(monkeypatch):
    """K (1 / r)^rho / sum of them with r = 8, 2, 1 and rho = 1: 3 (1, 4, 8) / 13."""
    pixels, images = np.array([900, 90, 10]), np.array([8, 2, 1])
    stats = ClassStats(("a", "b", "c"), 8, pixels, images, None)
    monkeypatch.setattr("disalign.reference.get_class_stats", lambda names: stats)
    monkeypatch.setattr("disalign.queries.label_map_groups", lambda cfg, stats: {})
    own = {key.replace(".", "__"): value for key, value in SECOND.items()}
    cfg = head_config(**own, DISALIGN__RHO=1.0, MASK2FORMER__NO_OBJECT_WEIGHT=0.4)
    cfg.DATASETS.TRAIN = ("any",)
    expected = torch.tensor([3 / 13, 12 / 13, 24 / 13, 0.4])
    torch.testing.assert_close(build(cfg).class_weights, expected)


def test_a_calibration_without_confidence_folds_into_the_classifier(first, features):
    head, _ = first
    second = disturb(second_head(DISALIGN__CONFIDENCE=False)).eval()
    fold_calibration(head.mask2former.class_predictor, second.calibration)
    with torch.no_grad():
        given, expected = head(features)[0], second(features)[0]
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)


def test_refuses_heads_without_queries():
    options = {"SEM_SEG_HEAD__NAME": "DisAlignQueryHead", "SEM_SEG_HEAD__NORM": "BN"}
    with raises_naming(ValueError, "DisAlignQueryHead", "FCNHead", "DisAlignSemSegHead"):
        build(head_config(**options, DISALIGN__BASE_HEAD_NAME="FCNHead"))


def test_heads_of_pixels_refuse_queries(monkeypatch):
    """They would take mask features for scores."""
    stats = ClassStats(("a", "b", "c"), 8, np.array([5, 2, 1]), np.array([5, 2, 1]), None)
    monkeypatch.setattr("disalign.reference.get_class_stats", lambda names: stats)
    monkeypatch.setattr("disalign.sem_seg.label_map_groups", lambda cfg, stats: {})
    own = {key.replace(".", "__"): value for key, value in SECOND.items()}
    cfg = head_config(**{**own, "SEM_SEG_HEAD__NAME": "DisAlignSemSegHead"})
    with raises_naming(ValueError, "DisAlignSemSegHead", "Mask2FormerHead", "queries"):
        build(cfg)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stripes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        yield register_stripes(NAME, folder, size=64)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def options(stripes, *overrides):
    """Both sets, images of 64 pixels, and AMP, which a CPU has with bfloat16."""
    sizes = ["INPUT.MIN_SIZE_TRAIN", [64], "INPUT.CROP.SIZE", [64, 64], "INPUT.MIN_SIZE_TEST", 64]
    recipe = ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 0.002]
    amp = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"]
    levels = ["MODEL.TIMM.OUT_FEATURES", OPTIONS["SEM_SEG_HEAD.IN_FEATURES"]]
    padding = ["MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE", True]
    names = ["DATASETS.TRAIN", (stripes,), "DATASETS.TEST", (stripes,)]
    return [*pairs(OPTIONS), *sizes, *recipe, *amp, *levels, *padding, *names, *overrides]


def run(folder, values, **flags):
    arguments = {"eval_only": False, "resume": False, "overwrite": False, **flags}
    args = argparse.Namespace(config_file=str(tiny_config_file(folder)), opts=values, **arguments)
    args.num_gpus, args.num_machines, args.machine_rank, args.dist_url = 0, 1, 0, ""
    run_process(args)


def test_both_stages_from_the_command(tmp_path, stripes):
    """With Region Rebalance, then DisAlign; it is resumed, evaluated, and tested in other modes."""
    branch = ["MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"]
    branch += ["MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "Mask2FormerHead"]
    one = options(stripes, *branch, "OUTPUT_DIR", str(tmp_path / "one"))
    run(tmp_path, [*one, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_ITER", 2])
    run(tmp_path, [*one, "SOLVER.MAX_ITER", 4], resume=True)
    weights = str(tmp_path / "one" / "model_final.pth")
    state = torch.load(weights, weights_only=True)
    assert state["iteration"] == 3
    assert "sem_seg_head.region_classifier.weight" in state["model"]
    run(tmp_path, [*one, "MODEL.WEIGHTS", weights], eval_only=True)
    second = ["MODEL.SEM_SEG_HEAD.NAME", "DisAlignQueryHead", "MODEL.WEIGHTS", weights]
    second += ["MODEL.DISALIGN.BASE_HEAD_NAME", "RegionRebalanceHead", "SOLVER.BASE_LR", 0.1]
    two = [*one, *second, "OUTPUT_DIR", str(tmp_path / "two"), "SOLVER.MAX_ITER", 2]
    cfg = tiny_config(tmp_path, two)
    trainer = start(cfg)
    before = tensors(trainer.model)
    trainer.train()
    after = tensors(trainer.model)
    parts = ("alpha", "beta", "confidence_layer.weight", "confidence_layer.bias")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"sem_seg_head.calibration.{part}" for part in parts
    }
    model = trainer.model.eval()
    (image,) = next(iter(Trainer.build_test_loader(cfg, stripes)))
    with torch.no_grad():
        scores = model([image])[0]["sem_seg"]
        assert scores.shape == (K, 64, 64) and scores.dtype == torch.float32
        classes = build_inference(cfg, model, class_maps=True)([image])[0]["sem_seg"]
        assert torch.equal(classes, scores.argmax(0))
        cfg.TEST.AUG.SCALES = [1.0]
        tested = SemanticSegmentorWithTTA(cfg, model)([image])[0]["sem_seg"]
        mirrored = {**image, "image": image["image"].flip(2)}
        other = model([mirrored])[0]["sem_seg"].flip(2)
    mean = (F.softmax(scores, 0) + F.softmax(other, 0)) / 2
    torch.testing.assert_close(tested, mean, rtol=0, atol=1e-5)


def test_images_that_are_not_padded_are_refused_in_one_line(tmp_path, stripes):
    key = "MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE"
    with raises_naming(ValueError, key, "Mask2FormerHead", "True"):
        Trainer.build_model(tiny_config(tmp_path, options(stripes, key, False)))


@pytest.mark.parametrize("method", ["tau_norm", "logit_adjustment"])
def test_methods_after_training_are_refused_in_one_line(tmp_path, stripes, method):
    cfg = tiny_config(tmp_path, options(stripes, "MODEL.POST_HOC.METHOD", method))
    model = Trainer.build_model(cfg)
    with raises_naming(ValueError, method, "Mask2FormerHead"):
        apply_post_hoc(cfg, model)
