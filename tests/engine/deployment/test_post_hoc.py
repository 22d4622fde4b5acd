# SPDX-License-Identifier: Apache-2.0
"""What post hoc methods do to a model of every task, and which models they refuse."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes
from PIL import Image

from longtail.engine import SemanticSegmentorWithTTA, Trainer
from longtail.engine.deployment.folding import fold
from longtail.engine.deployment.post_hoc import (
    apply_post_hoc,
    check_not_applied,
    check_training_classes,
)
from longtail.engine.inference.build import build_inference
from tests.messages import raises_naming
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


@pytest.mark.parametrize("of_bias", ["drop", "scale"])
@MODELS
def test_tau_norm_on_a_model(build, task, overrides, of_bias):
    options = [METHOD, "tau_norm", TAU, 0.5, "MODEL.POST_HOC.TAU_BIAS", of_bias]
    cfg, model = build(task, *options, *overrides)
    untouched = state(model)
    changes = change(cfg, model)
    assert len(changes) == (3 if overrides == CASCADE else 1)
    for weight, bias, new_weight, new_bias in changes:
        factors = weight.flatten(1).norm(dim=1) ** -0.5
        if task == "boxes":
            factors[-1] = 1
        expected = weight * factors.view(-1, *[1] * (weight.ndim - 1))
        torch.testing.assert_close(new_weight, expected, rtol=1e-6, atol=0)
        expected = bias * factors
        if of_bias == "drop":
            # The background's stays.
            expected[: 3 if task == "boxes" else None] = 0
        torch.testing.assert_close(new_bias, expected, rtol=1e-6, atol=0)
    changed = [
        n for n, tensor in model.state_dict().items() if not torch.equal(tensor, untouched[n])
    ]
    assert len(changed) == 2 * len(changes)


@MODELS
def test_logit_adjustment_on_a_model(build, task, overrides):
    cfg, model = build(task, METHOD, "logit_adjustment", LAMBDA, 0.5, *overrides)
    if task == "pixels":
        # Four images of 32 x 31 pixels with a label, in stripes of random widths.
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
    plain = ["MODEL.POST_HOC.NCM_FEATURES", "plain", "MODEL.POST_HOC.NCM_DISTANCE", "cosine"]
    cfg, model = build("images", METHOD, "ncm", *plain)
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


def test_ncm_as_published_replaces_the_classifier_and_is_not_folded(build):
    cfg, model = build("images", METHOD, "ncm")
    apply_post_hoc(cfg, model)
    inputs = classification_inputs(count=4)
    with torch.no_grad():
        features = model.features(inputs)
        scores = torch.stack([item["scores"] for item in model(inputs)])
    f = features - model.classifier.mean
    f = f / f.norm(dim=1, keepdim=True)
    distances = (f[:, None] - model.classifier.means).square().sum(2)
    torch.testing.assert_close(scores, (-distances).softmax(1), rtol=1e-4, atol=1e-5)
    with raises_naming(ValueError, "MODEL.POST_HOC.NCM_DISTANCE", "TorchScript"):
        fold(cfg, model)


@pytest.mark.parametrize("overrides", [[], CASCADE], ids=["boxes", "cascade"])
def test_ncm_of_a_detector_by_loops(build, overrides):
    """The means of the features of the annotated boxes, image by image, at every stage."""
    cfg, model = build("boxes", METHOD, "ncm", *overrides)
    before = list(layers(model))
    apply_post_hoc(cfg, model)
    heads = model.roi_heads.box_head
    heads = list(heads) if overrides else [heads]
    assert len(heads) == len(layers(model)) == (3 if overrides else 1)
    for head, trained, layer in zip(heads, before, layers(model), strict=True):
        assert layer.trained is trained
        found = [[], [], []]
        for record in DatasetCatalog.get(RECTANGLES):
            pixels = np.asarray(Image.open(record["file_name"]))[:, :, ::-1]
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
            with torch.no_grad():
                maps = model.backbone(model.preprocess_image([{"image": image}]).tensor)
                maps = [maps[name] for name in model.roi_heads.box_in_features]
                for annotation in record["annotations"]:
                    x, y, w, h = annotation["bbox"]
                    box = Boxes(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32))
                    feature = head(model.roi_heads.box_pooler(maps, [box]))[0].double()
                    found[annotation["category_id"]].append(feature)
        assert tuple(map(len, found)) == INSTANCE_COUNT
        every = [f for of_class in found for f in of_class]
        mean = sum(every) / len(every)
        for k, of_class in enumerate(found):
            of_class = [(f - mean) / (f - mean).norm() for f in of_class]
            expected = (sum(of_class) / len(of_class)).float()
            torch.testing.assert_close(layer.nearest.means[k], expected, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        assert len(model(detector_inputs(1))[0]["instances"])
    with raises_naming(ValueError, "TorchScript"):
        fold(cfg, model)


# Maps of stride 4 of images of 40 pixels, whose labels have 32: cells and pixels are not aligned.
CELLS = ["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2"], "INPUT.MIN_SIZE_TEST", 40]
SLIDE = ["TEST.SEM_SEG.MODE", "slide", "TEST.SEM_SEG.CROP_SIZE", [24, 40]]
SLIDE += ["TEST.SEM_SEG.STRIDE", [16, 40]]
PADDED = ["MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE", True]


@pytest.mark.parametrize(
    ("overrides", "windows"),
    [
        ([], [(0, 40)]),
        (PADDED, [(0, 40)]),
        (REGION_REBALANCE, [(0, 40)]),
        (["MODEL.META_ARCHITECTURE", "SemanticSegmentor", *PADDED], [(0, 40)]),
        (SLIDE, [(0, 24), (16, 40)]),
        ([*SLIDE, *PADDED], [(0, 24), (16, 40)]),
    ],
    ids=["whole", "padded", "in a wrapper", "detectron2's", "windows", "padded windows"],
)
def test_ncm_of_a_segmentor_by_loops(build, overrides, windows):
    """Cell by cell: the label is that of the pixel at the cell's upper left corner."""
    cfg, model = build("pixels", METHOD, "ncm", *CELLS, *overrides)
    predictor, found, entered = layers(model)[0], [[], [], []], []
    handle = predictor.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0][0]))
    for record in DatasetCatalog.get(STRIPES):
        image = cv2.imread(record["file_name"])[:, :, ::-1]
        image = cv2.resize(np.ascontiguousarray(image), (40, 40)).transpose(2, 0, 1)
        labels = np.asarray(Image.open(record["sem_seg_file_name"]))
        # The pixel at the middle, as Pillow has it.
        rows = [int((y + 0.5) * 32 / 40) for y in range(40)]
        labels = labels[rows][:, rows]
        for top, bottom in windows:
            crop = torch.from_numpy(np.ascontiguousarray(image[:, top:bottom]))
            with torch.no_grad():
                model([{"image": crop}])
            cells = entered[-1].double()
            for y in range(cells.shape[1]):
                for x in range(cells.shape[2]):
                    if 4 * y < bottom - top and 4 * x < 40:
                        label = labels[top + 4 * y, 4 * x]
                        if label != 255:
                            found[label].append(cells[:, y, x])
    handle.remove()
    every = [f for of_class in found for f in of_class]
    mean = sum(every) / len(every)
    # Four images of 100 cells; with windows of 6 rows each.
    assert 300 < len(every) <= (400 if len(windows) == 1 else 480)
    apply_post_hoc(cfg, model)
    nearest = layers(model)[0]
    torch.testing.assert_close(nearest.mean.double(), mean, rtol=1e-4, atol=1e-5)
    for k, of_class in enumerate(found):
        of_class = [(f - mean) / (f - mean).norm() for f in of_class]
        expected = (sum(of_class) / len(of_class)).float()
        torch.testing.assert_close(nearest.means[k], expected, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        scores = build_inference(cfg, model)([{"image": torch.from_numpy(image.copy())}])
    assert scores[0]["sem_seg"].shape == (3, 40, 40)


def test_a_segmentor_by_nearest_means_in_all_modes_of_testing(build):
    """Classes are the arg max of logits, whole and in windows; averages over scales are scores."""
    cfg, model = build("pixels", METHOD, "ncm", *CELLS)
    apply_post_hoc(cfg, model)
    image = {"image": torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)}
    image["file_name"] = DatasetCatalog.get(STRIPES)[0]["file_name"]
    for overrides in ([], SLIDE):
        cfg.merge_from_list(overrides)
        with torch.no_grad():
            logits = build_inference(cfg, model)([image])[0]["sem_seg"]
            classes = build_inference(cfg, model, class_maps=True)([image])[0]["sem_seg"]
        assert torch.equal(classes, logits.argmax(0))
    cfg.TEST.AUG.SCALES = [1.0]
    with torch.no_grad():
        tested = SemanticSegmentorWithTTA(cfg, model)([image])[0]["sem_seg"]
    torch.testing.assert_close(tested.sum(0), torch.ones(32, 32))
    with raises_naming(ValueError, "TorchScript", "ONNX", "MODEL.POST_HOC.NCM_DISTANCE"):
        fold(cfg, model)


def test_ncm_of_pixels_by_cosines_is_a_convolution(build):
    options = ["MODEL.POST_HOC.NCM_FEATURES", "plain", "MODEL.POST_HOC.NCM_DISTANCE", "cosine"]
    cfg, model = build("pixels", METHOD, "ncm", *CELLS, *options)
    [(weight, _, changed, bias)] = change(cfg, model)
    assert changed.shape == weight.shape and not bias.any()
    lengths = changed.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(3).double(), rtol=0, atol=1e-6)


def test_an_absent_class_is_left_out_if_one_says_so(build, tmp_path):
    name = register_colors("post_hoc_two_colors", tmp_path / "two", (3, 2, 0))
    skip = ["MODEL.POST_HOC.SKIP_ABSENT", True, "DATASETS.TRAIN", (name,)]
    try:
        for method in ("ncm", "logit_adjustment"):
            cfg, model = build("images", METHOD, method, LAMBDA, 0.5, *skip)
            if method == "logit_adjustment":
                [(_, bias, _, new_bias)] = change(cfg, model)
                margins = -0.5 * torch.tensor([3 / 5, 2 / 5, 1]).double().log()
                assert new_bias[2] == bias[2]
                torch.testing.assert_close(new_bias, bias + margins, rtol=0, atol=1e-6)
            else:
                apply_post_hoc(cfg, model)
                with torch.no_grad():
                    scores = [item["scores"] for item in model(classification_inputs(count=4))]
                assert all(float(s[2]) == 0 for s in scores)
    finally:
        unregister(name)


def test_an_absent_class_of_pixels_has_the_name_of_its_list(build, tmp_path):
    """Of a data set that names things, too."""
    name = "post_hoc_things_too"
    register_stripes(name, tmp_path / "things")
    MetadataCatalog.get(name).set(thing_classes=["a thing"])
    try:
        for record in DatasetCatalog.get(name):
            labels = np.asarray(Image.open(record["sem_seg_file_name"])) % 2
            Image.fromarray(labels).save(record["sem_seg_file_name"])
        message = fails(*build("pixels", METHOD, "ncm", *CELLS, "DATASETS.TRAIN", (name,)))
    finally:
        unregister(name)
    assert "class 2 (blue) does not occur" in message


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
        (["MODEL.ROI_BOX_HEAD.CLASS_LOSS", "seesaw"], "are no softmax"),
    ],
    ids=["cosine", "DisAlign", "sigmoid", "objectness"],
)
@pytest.mark.parametrize("method", ["tau_norm", "logit_adjustment"])
def test_detectors_without_linear_classifier(build, overrides, why, method):
    assert why in fails(*build("boxes", METHOD, method, *overrides))


def test_pixels_of_a_second_stage(build):
    overrides = ["MODEL.SEM_SEG_HEAD.NAME", "DisAlignSemSegHead"]
    overrides += ["MODEL.DISALIGN.BASE_HEAD_NAME", "FCNHead"]
    assert "is a second stage" in fails(*build("pixels", METHOD, "tau_norm", *overrides))


def test_norcal_is_for_boxes(build):
    message = fails(*build("pixels", METHOD, "norcal"))
    assert "norcal is for boxes, not for" in message and "ncm" in message


@pytest.mark.parametrize("method", ["ncm", "logit_adjustment"])
def test_no_training_set(build, method):
    message = fails(*build("images", METHOD, method, "DATASETS.TRAIN", ()))
    assert f"{method} reads the training set, but DATASETS.TRAIN is empty" in message


@pytest.mark.parametrize("method", ["tau_norm", "ncm"])
def test_no_method_is_applied_on_top_of_another(tmp_path, method):
    """Whichever the two are; without one of them all is well."""
    cfg = classification_config(tmp_path, [METHOD, method, "MODEL.WEIGHTS", "exported.pth"])
    with raises_naming(ValueError, "tau_norm", "exported.pth", METHOD, method):
        check_not_applied(cfg, {"post_hoc": "tau_norm", "iteration": 3})
    check_not_applied(cfg, {"iteration": 3})
    check_not_applied(classification_config(tmp_path), {"post_hoc": "tau_norm"})


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


@pytest.mark.parametrize("method", ["logit_adjustment", "ncm"])
def test_the_training_set_has_the_classes_of_the_weights(build, method):
    cfg, _ = build("pixels", METHOD, method, "MODEL.WEIGHTS", "w.pth")
    check_training_classes(cfg, {})
    check_training_classes(cfg, {"class_names": ["red", "green", "blue"]})
    with raises_naming(ValueError, STRIPES, "w.pth", "class 0", "'red'", "'green'", METHOD, method):
        check_training_classes(cfg, {"class_names": ["green", "red", "blue"]})
    cfg, _ = build("pixels", METHOD, "tau_norm")
    check_training_classes(cfg, {"class_names": ["sky", "red", "blue"]})
