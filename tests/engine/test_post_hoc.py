"""Post hoc methods: their formulas as theorems, and what they do to a model of every task.

Shape alphabet: N samples, C channels, K classes.
"""

import math

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from PIL import Image

from longtail.engine import Trainer
from longtail.engine.post_hoc import apply_post_hoc
from longtail.modeling.post_hoc import logit_adjustment, nearest_class_mean, tau_norm
from tests.tiny import register_stripes, tiny_config
from tests.tiny_classification import (
    classification_config,
    classification_inputs,
    register_colors,
    unregister,
)
from tests.tiny_detection import CASCADE, detector_config, detector_inputs, register_rectangles

COLORS, STRIPES, RECTANGLES = "post_hoc_colors", "post_hoc_stripes", "post_hoc_rectangles"
# Images of every class, and annotated rectangles.
IMAGE_COUNT, INSTANCE_COUNT = (8, 4, 2), (6, 3, 1)
METHOD, TAU, LAMBDA = (f"MODEL.POST_HOC.{key}" for key in ("METHOD", "TAU", "LAMBDA"))


def random_classifier(K=5, C=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    return torch.randn(K, C, **options), torch.randn(K, **options), torch.randn(9, C, **options)


# --- pure functions ---


def test_tau_0_is_the_identity_and_tau_1_gives_unit_rows():
    weight, bias, _ = random_classifier()
    for given, kept in zip((weight, bias), tau_norm(weight, bias, 0.0), strict=True):
        assert torch.equal(given, kept)
    normalized, _ = tau_norm(weight, bias, 1.0)
    torch.testing.assert_close(normalized.norm(dim=1), torch.ones(5).double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
def test_tau_norm_is_the_magnitude_of_table_2(tau):
    """Every logit, with its bias, times 1 / |w_j|^tau; a 1x1 convolution like a layer."""
    weight, bias, x = random_classifier()
    changed, changed_bias = tau_norm(weight, bias, tau)
    found = x @ changed.T + changed_bias
    for i in range(len(x)):
        for j in range(len(weight)):
            z = sum(float(w * v) for w, v in zip(weight[j], x[i], strict=True)) + float(bias[j])
            length = math.sqrt(sum(float(w) ** 2 for w in weight[j]))
            assert float(found[i, j]) == pytest.approx(z / length**tau, rel=1e-12)
    as_convolution, _ = tau_norm(weight[:, :, None, None], bias, tau)
    assert torch.equal(as_convolution[:, :, 0, 0], changed)


def test_lambda_0_is_the_identity_and_lambda_the_margin_of_table_2():
    _, bias, _ = random_classifier()
    counts = torch.tensor([50, 20, 20, 9, 1])
    assert torch.equal(logit_adjustment(bias, counts, 0.0), bias)
    for strength in (0.5, 1.0):
        found = logit_adjustment(bias, counts, strength)
        for j, count in enumerate(counts.tolist()):
            expected = float(bias[j]) - strength * math.log(count / 100)
            assert float(found[j]) == pytest.approx(expected, rel=1e-14)


def test_logit_adjustment_is_optimal_where_all_classes_are_equally_likely():
    """Gaussian classes with one covariance: a linear classifier whose softmax is p(y|x) exactly.

    With x ~ N(m_y, I) and p(y) = r_y, log p(y|x) = m_y.x - |m_y|^2 / 2 + log r_y up to a constant.
    The best guess when all classes are equally likely is the largest p(y|x) / r_y: the nearest m_y.
    """
    generator = np.random.default_rng(0)
    prior = np.array([0.9, 0.07, 0.03])
    means = generator.normal(size=(3, 4))
    bias = torch.from_numpy(np.log(prior) - (means**2).sum(1) / 2)
    adjusted = logit_adjustment(bias, torch.tensor([90, 7, 3]), 1.0)
    x = np.concatenate([mean + generator.normal(size=(500, 4)) for mean in means])
    logits = torch.from_numpy(x @ means.T)
    nearest = np.linalg.norm(x[:, None] - means, axis=2).argmin(1)
    assert ((logits + adjusted).argmax(1).numpy() == nearest).all()
    posterior = (logits + bias).softmax(1).numpy()
    assert ((posterior / prior).argmax(1) == nearest).all()
    # Where it is not needed there is nothing to see.
    assert ((logits + bias).argmax(1).numpy() != nearest).sum() > 100


def test_centered_margins_change_no_softmax_and_have_mean_0():
    _, bias, _ = random_classifier()
    counts = torch.tensor([50, 20, 20, 9, 1])
    plain, centered = (logit_adjustment(bias, counts, 0.7, centered=c) for c in (False, True))
    torch.testing.assert_close(plain.softmax(0), centered.softmax(0), rtol=1e-13, atol=0)
    assert float((centered - bias).mean()) == pytest.approx(0, abs=1e-14)


def test_ncm_names_the_nearest_mean():
    """Of cosines, and of distances to normalized means: by loops over samples and classes."""
    K, C, N = 4, 6, 60
    generator = np.random.default_rng(1)
    labels = np.arange(N) % K
    features = generator.normal(size=(K, C))[labels] + generator.normal(size=(N, C))
    weight = nearest_class_mean(torch.from_numpy(features), torch.from_numpy(labels), K)
    x = generator.normal(size=(200, C))
    found = (torch.from_numpy(x) @ weight.T).argmax(1).tolist()
    means = []
    for k in range(K):
        members = [f for f, label in zip(features, labels, strict=True) if label == k]
        means.append(sum(members) / len(members))
    for sample, guess in zip(x, found, strict=True):
        lengths = [np.linalg.norm(m) for m in means]
        cosines = [
            sample @ m / (np.linalg.norm(sample) * length)
            for m, length in zip(means, lengths, strict=True)
        ]
        distances = [
            np.linalg.norm(sample - m / length) for m, length in zip(means, lengths, strict=True)
        ]
        assert guess == int(np.argmax(cosines)) == int(np.argmin(distances))
    assert len(set(found)) == K


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_a_strength_out_of_range(value):
    weight, bias, _ = random_classifier()
    with pytest.raises(ValueError, match="MODEL.POST_HOC.TAU must be finite and >= 0, got"):
        tau_norm(weight, bias, value)
    with pytest.raises(ValueError, match="MODEL.POST_HOC.LAMBDA must be finite and >= 0, got"):
        logit_adjustment(bias, torch.ones(5), value)


def test_a_weight_of_zero_has_no_direction():
    weight, bias, _ = random_classifier()
    weight[3] = 0
    with pytest.raises(ValueError, match="class 3 has the weight 0"):
        tau_norm(weight, bias, 0.5)
    assert torch.equal(tau_norm(weight, bias, 0.0)[0], weight)


def test_statistics_and_samples_of_other_classes():
    _, bias, x = random_classifier()
    with pytest.raises(ValueError, match="the classifier has 5 classes, the training set 3"):
        logit_adjustment(bias, torch.ones(3), 1.0)
    with pytest.raises(ValueError, match="the labels are 0 to 2, expected 0 to 1"):
        nearest_class_mean(x, torch.arange(9) % 3, 2)


def test_a_class_without_samples_is_named():
    _, bias, x = random_classifier()
    names = ["ash", "birch", "cedar", "dogwood", "elm"]
    message = r"class 1 \(birch\) and 1 more does not occur in DATASETS.TRAIN"
    counts = torch.tensor([5, 0, 3, 0, 1])
    with pytest.raises(ValueError, match=message):
        logit_adjustment(bias, counts, 1.0, class_names=names)
    labels = torch.repeat_interleave(torch.arange(5), counts)
    with pytest.raises(ValueError, match=message):
        nearest_class_mean(x, labels, 5, class_names=names)


# --- models ---


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("post_hoc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        register_colors(COLORS, folder / COLORS)
        register_stripes(STRIPES, folder / STRIPES)
        yield register_rectangles(RECTANGLES, folder / RECTANGLES, 6)
    unregister(COLORS, STRIPES, RECTANGLES)


@pytest.fixture
def build(tmp_path, data_sets):
    """A function that gives a config with a training set, and a model with a random classifier."""

    def get(task: str, *overrides: object) -> tuple[CfgNode, torch.nn.Module]:
        make, name = {
            "images": (classification_config, COLORS),
            "pixels": (tiny_config, STRIPES),
            "boxes": (detector_config, RECTANGLES),
        }[task]
        cfg = make(tmp_path, ["DATASETS.TRAIN", (name,), *overrides])
        torch.manual_seed(0)
        model = Trainer.build_model(cfg).eval()
        with torch.no_grad():
            for parameter in (p for layer in layers(model) for p in layer.parameters()):
                parameter.copy_(torch.randn_like(parameter))
        return cfg, model

    return get


def layers(model):
    """Where the linear classifiers of the tiny models are."""
    if hasattr(model, "classifier"):
        return [model.classifier]
    if hasattr(model, "sem_seg_head"):
        head = model.sem_seg_head
        return [getattr(head, "base_head", head).predictor]
    predictors = model.roi_heads.box_predictor
    several = isinstance(predictors, torch.nn.ModuleList)
    return [p.cls_score for p in (predictors if several else [predictors])]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def change(cfg, model):
    """Weights and biases (of all rows) before and after, in float64."""
    before = [(la.weight.detach().double(), la.bias.detach().double()) for la in layers(model)]
    apply_post_hoc(cfg, model)
    after = [(la.weight.detach().double(), la.bias.detach().double()) for la in layers(model)]
    return [(*b, *a) for b, a in zip(before, after, strict=True)]


REGION_REBALANCE = ["MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"]
REGION_REBALANCE += ["MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHead"]
MODELS = pytest.mark.parametrize(
    ("task", "overrides"),
    [
        ("images", []),
        ("pixels", []),
        ("pixels", REGION_REBALANCE),
        ("boxes", []),
        ("boxes", CASCADE),
    ],
    ids=["images", "pixels", "pixels in a wrapper", "boxes", "cascade"],
)


@MODELS
def test_tau_norm_on_a_model(build, task, overrides):
    cfg, model = build(task, METHOD, "tau_norm", TAU, 0.5, *overrides)
    untouched = state(model)
    changes = change(cfg, model)
    assert len(changes) == (3 if overrides == CASCADE else 1)
    for weight, bias, new_weight, new_bias in changes:
        factors = weight.flatten(1).norm(dim=1) ** -0.5
        if task == "boxes":
            factors[-1] = 1
        expected = weight * factors.view(-1, *[1] * (weight.ndim - 1))
        torch.testing.assert_close(new_weight, expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(new_bias, bias * factors, rtol=1e-6, atol=0)
    changed = [
        n for n, tensor in model.state_dict().items() if not torch.equal(tensor, untouched[n])
    ]
    assert len(changed) == 2 * len(changes)


@MODELS
def test_logit_adjustment_on_a_model(build, task, overrides):
    cfg, model = build(task, METHOD, "logit_adjustment", LAMBDA, 0.5, *overrides)
    if task == "pixels":
        # Eight images of 32 x 31 pixels with a label, in stripes of random widths.
        counts = torch.from_numpy(pixel_counts(cfg))
    else:
        counts = torch.tensor(IMAGE_COUNT if task == "images" else INSTANCE_COUNT)
    margins = -0.5 * (counts / counts.sum()).double().log()
    if task == "boxes":
        margins = torch.cat([margins - margins.mean(), torch.zeros(1)])
    for weight, bias, new_weight, new_bias in change(cfg, model):
        assert torch.equal(weight, new_weight)
        torch.testing.assert_close(new_bias, bias + margins, rtol=0, atol=1e-6)


def pixel_counts(cfg):
    labels = [
        np.asarray(Image.open(record["sem_seg_file_name"]))
        for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    ]
    return np.array([sum(int((label == k).sum()) for label in labels) for k in range(3)])


def test_ncm_of_a_model_by_loops(build):
    cfg, model = build("images", METHOD, "ncm")
    sums, counts = [0, 0, 0], [0, 0, 0]
    for record in DatasetCatalog.get(COLORS):
        # The images have the size of the test already.
        pixels = np.asarray(Image.open(record["file_name"]))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        with torch.no_grad():
            sums[record["label"]] += model.features([{"image": image}])[0].double()
        counts[record["label"]] += 1
    assert tuple(counts) == IMAGE_COUNT
    apply_post_hoc(cfg, model)
    for k in range(3):
        mean = sums[k] / counts[k]
        found = model.classifier.weight[k].detach().double()
        torch.testing.assert_close(found, mean / mean.norm(), rtol=1e-4, atol=1e-6)
    assert not model.classifier.bias.any()
    assert not model.training
    with torch.no_grad():
        scores = model(classification_inputs(count=2))
    assert [item["scores"].shape for item in scores] == [(3,), (3,)]


@MODELS
def test_no_method_changes_nothing(build, task, overrides):
    cfg, model = build(task, *overrides)
    before = state(model)
    apply_post_hoc(cfg, model)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_a_changed_detector_still_detects(build):
    cfg, model = build("boxes", METHOD, "logit_adjustment")
    apply_post_hoc(cfg, model)
    with torch.no_grad():
        assert len(model(detector_inputs(1))[0]["instances"])


# --- what cannot be done ---


def fails(cfg, model):
    before = state(model)
    with pytest.raises(ValueError) as caught:
        apply_post_hoc(cfg, model)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    return str(caught.value)


def test_unknown_method(build):
    message = fails(*build("images", METHOD, "tau"))
    assert "MODEL.POST_HOC.METHOD must be one of" in message and "'tau_norm'" in message
    assert "got 'tau'" in message


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["MODEL.CLASSIFIER.TYPE", "cosine"], "ImageClassifier is a CosineLinear"),
        (["MODEL.META_ARCHITECTURE", "ScaledImageClassifier"], "is a second stage"),
        (["MODEL.META_ARCHITECTURE", "RetrainedImageClassifier"], "is a second stage"),
        (["MODEL.CLASSIFIER.LOSS", "eqlv2"], "are no softmax"),
        (["MODEL.CLASSIFIER.LOSS", "bags"], "are no softmax"),
    ],
    ids=["cosine", "LWS", "cRT", "sigmoid", "groups"],
)
@pytest.mark.parametrize("method", ["tau_norm", "ncm"])
def test_image_classifiers_without_linear_classifier(build, overrides, why, method):
    message = fails(*build("images", METHOD, method, *overrides))
    assert f"{method}: the model has no linear classifier" in message and why in message


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["MODEL.ROI_BOX_HEAD.CLASSIFIER", "cosine"], "is a CosineLinear"),
        (["MODEL.META_ARCHITECTURE", "DisAlignRCNN"], "DisAlignRCNN is a second stage"),
        (["MODEL.ROI_BOX_HEAD.CLASS_LOSS", "eqlv2"], "are no softmax"),
    ],
    ids=["cosine", "DisAlign", "sigmoid"],
)
def test_detectors_without_linear_classifier(build, overrides, why):
    assert why in fails(*build("boxes", METHOD, "tau_norm", *overrides))


def test_pixels_of_a_second_stage(build):
    overrides = ["MODEL.SEM_SEG_HEAD.NAME", "DisAlignSemSegHead"]
    overrides += ["MODEL.DISALIGN.BASE_HEAD_NAME", "FCNHead"]
    assert "is a second stage" in fails(*build("pixels", METHOD, "tau_norm", *overrides))


@pytest.mark.parametrize("task", ["pixels", "boxes"])
def test_ncm_is_for_images(build, task):
    message = fails(*build(task, METHOD, "ncm"))
    assert "ncm is for images of one class each, not for" in message


@pytest.mark.parametrize("method", ["ncm", "logit_adjustment"])
def test_no_training_set(build, method):
    message = fails(*build("images", METHOD, method, "DATASETS.TRAIN", ()))
    assert f"{method} reads the training set, but DATASETS.TRAIN is empty" in message


def test_statistics_that_a_data_set_has_not(build):
    message = fails(*build("boxes", METHOD, "logit_adjustment", "DATASETS.TRAIN", (COLORS,)))
    assert f"needs the instance_count of {COLORS}" in message


@pytest.mark.parametrize("method", ["ncm", "logit_adjustment"])
def test_a_class_without_training_images(build, tmp_path, method):
    name = register_colors("post_hoc_no_blue", tmp_path / "no_blue", (3, 2, 0))
    try:
        message = fails(*build("images", METHOD, method, "DATASETS.TRAIN", (name,)))
    finally:
        unregister(name)
    assert f"{method}: class 2 (blue) does not occur" in message
