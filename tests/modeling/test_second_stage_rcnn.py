# SPDX-License-Identifier: Apache-2.0
"""cRT, LWS and balanced group softmax on a finished detector.

Shape alphabet: R RoIs, C channels, K foreground classes, D outputs of the new classifier.
"""

import math

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from disalign.roi_cache import build_roi_cache_loader
from disalign.roi_cache_making import make_cache

from longtail.engine import Trainer
from longtail.engine.deployment.folding import baseline_config, fold
from longtail.engine.inference.trained import load_trained
from longtail.engine.training.data_sets import training_records
from tests.disalign.detectors import KINDS, predictions, randomize, start, tensors
from tests.messages import raises_naming
from tests.tiny_detection import detector_config, register_rectangles

NAME = "second_stage_rectangles"
ARCHITECTURE, LOSS = "MODEL.META_ARCHITECTURE", "MODEL.ROI_BOX_HEAD.CLASS_LOSS"
# Of the 6 red, 3 green and 1 blue rectangles: blue and green, and red.
BAGS = [LOSS, "bags", "MODEL.CLASS_LOSS.BAGS_BINS", [5], "MODEL.CLASS_LOSS.BAGS_BETA", 1e6]
K = 3


@pytest.fixture(scope="module")
def first_stages(tmp_path_factory):
    """A function that gives the options of both stages and the checkpoint of a first one."""
    folder = tmp_path_factory.mktemp("second_stage_rcnn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "statistics"))
        register_rectangles(NAME, folder / "data", 6)

        def get(kind):
            options = ["DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (), *KINDS[kind]]
            path = folder / f"{kind}.pth"
            if not path.exists():
                torch.manual_seed(7)
                model = Trainer.build_model(detector_config(folder, options))
                randomize(model)
                torch.save({"model": model.state_dict()}, path)
            return options, str(path)

        yield get
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def configure(tmp_path, first_stages):
    def get(architecture, kind="mask-linear", *overrides):
        options, weights = first_stages(kind)
        second = [ARCHITECTURE, architecture, "MODEL.WEIGHTS", weights]
        return detector_config(tmp_path, [*options, *second, *overrides])

    return get


def rois(count=40, channels=12):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, K + 1, (count,), generator=generator)


def log_softmax(scores, chosen):
    """log p of one of a list of numbers."""
    largest = max(scores)
    return scores[chosen] - largest - math.log(sum(math.exp(z - largest) for z in scores))


def cross_entropy(rows, classes):
    return -sum(log_softmax(z, y) for z, y in zip(rows, classes, strict=True)) / len(rows)


def group_softmax(rows, classes):
    """Loss of bins {1, 2} and {0} with all of the others, and of foreground.

    Columns: three classes, the others of both bins, foreground, background.
    """
    loss = 0.0
    for members, others in (((1, 2), 3), ((0,), 4)):
        columns = (*members, others)
        picked = [[z[c] for c in columns] for z in rows]
        targets = [columns.index(y) if y in members else len(members) for y in classes]
        loss += cross_entropy(picked, targets)
    return loss + cross_entropy([z[-2:] for z in rows], [int(y == K) for y in classes])


@pytest.mark.parametrize(
    ("architecture", "options", "reference"),
    [
        ("RetrainedRCNN", [], cross_entropy),
        ("RetrainedRCNN", BAGS, group_softmax),
        ("ScaledRCNN", [], cross_entropy),
    ],
    ids=["cRT", "BAGS", "LWS"],
)
def test_loss_and_gradient_by_loops(configure, architecture, options, reference):
    """The gradient by central differences of the reference."""
    model = Trainer.build_model(configure(architecture, "mask-linear", *options))
    layers = model.roi_heads.box_predictor.double()
    scaled = architecture == "ScaledRCNN"
    torch.manual_seed(0)
    for layer in [layers.cls_score] if scaled else [layers.cls_score, layers.retrained_classifier]:
        torch.nn.init.normal_(layer.weight, std=0.5)
        torch.nn.init.normal_(layer.bias)
    x, classes = rois()
    trained = layers.scaling.factor if scaled else layers.retrained_classifier.bias
    plain = (layers.cls_score if scaled else layers.retrained_classifier)(x).detach()

    def expected(values):
        # A factor for each foreground class, or another bias.
        change = [*values, 1.0] if scaled else values
        at = trained.detach().tolist()
        rows = [
            [z * f for z, f in zip(row, change, strict=True)]
            if scaled
            else [z + b - a for z, b, a in zip(row, change, at, strict=True)]
            for row in plain.tolist()
        ]
        return reference(rows, classes.tolist())

    if scaled:
        torch.nn.init.uniform_(trained, 0.5, 1.5)
    values = trained.detach().tolist()
    with EventStorage():
        loss = layers.roi_loss(x, classes)
    assert float(loss) == pytest.approx(expected(values), rel=1e-12)
    loss.backward()
    h = 1e-5
    for j in range(len(values)):
        up, down = ([v + s * h * (k == j) for k, v in enumerate(values)] for s in (1, -1))
        slope = (expected(up) - expected(down)) / (2 * h)
        assert float(trained.grad[j]) == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("kind", ["mask-linear", "cascade-cosine"])
def test_lws_starts_at_the_first_stages_detections(configure, first_stages, tmp_path, kind):
    first = start(
        detector_config(tmp_path, [*first_stages(kind)[0], "MODEL.WEIGHTS", first_stages(kind)[1]])
    )
    second = start(configure("ScaledRCNN", kind))
    for a, b in zip(predictions(first.model), predictions(second.model), strict=True):
        assert len(a) and torch.equal(a.scores, b.scores)
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)


CASES = pytest.mark.parametrize(
    ("architecture", "kind", "options"),
    [
        ("RetrainedRCNN", "cascade-linear", []),
        ("RetrainedRCNN", "mask-linear", BAGS),
        ("RetrainedRCNN", "mask-cosine", []),
        ("ScaledRCNN", "mask-linear", []),
        ("ScaledRCNN", "cascade-linear", []),
    ],
)


@CASES
def test_training_moves_the_trained_part_alone_and_folds(configure, architecture, kind, options):
    cfg = configure(architecture, kind, *options)
    trainer = start(cfg)
    before = tensors(trainer.model)
    trainer.train()
    own = "scaling" if architecture == "ScaledRCNN" else "retrained_classifier"
    after = tensors(trainer.model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    expected = {name for name in before if f".{own}." in name}
    assert moved == expected and expected
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if f".{own}." in name and "scale" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model = trainer.model.eval()
    folded = fold(cfg, model)
    baseline = Trainer.build_model(baseline_config(cfg)).eval()
    assert type(baseline).__name__ == "GeneralizedRCNN"
    state = folded.state_dict()
    baseline.load_state_dict({name: state[name] for name in baseline.state_dict()})
    pairs = zip(model.roi_heads.predictors, _predictors(baseline), strict=True)
    for second, one in pairs:
        x = torch.randn(5, 12, dtype=torch.float64)
        torch.testing.assert_close(one.double()(x), second.double()(x), rtol=1e-6, atol=1e-6)


def _predictors(model):
    found = model.roi_heads.box_predictor
    return list(found) if isinstance(found, torch.nn.ModuleList) else [found]


def test_lws_leaves_the_background_and_folds_no_cosine(configure):
    cfg = configure("ScaledRCNN", "mask-cosine")
    model = Trainer.build_model(cfg).eval()
    layers = model.roi_heads.box_predictor
    torch.nn.init.uniform_(layers.scaling.factor, 2, 3)
    x = torch.randn(5, 12)
    plain, scaled = layers.cls_score(x), layers.class_scores(x)
    assert torch.equal(plain[:, -1], scaled[:, -1])
    assert torch.equal(plain[:, :-1] * layers.scaling.factor, scaled[:, :-1])
    with raises_naming(ValueError, "CosineLinear"):
        fold(cfg, model)


def test_all_second_stages_train_on_one_cache(configure, tmp_path):
    folder = tmp_path / "cache"
    make_cache(configure("DisAlignRCNN"), folder, 1)
    for architecture, options in (("RetrainedRCNN", BAGS), ("ScaledRCNN", [])):
        cached = ["MODEL.DISALIGN.ROI_FEATURE_CACHE", str(folder)]
        cfg = configure(architecture, "mask-linear", *cached, *options)
        batch = next(iter(build_roi_cache_loader(cfg, training_records(cfg))))
        assert batch[0]["rois"][0].features.shape[1] == 12
        start(cfg).train()


@pytest.mark.parametrize("architecture", ["RetrainedRCNN", "ScaledRCNN"])
def test_its_weights_are_not_deployed_as_a_first_stages(configure, tmp_path, architecture):
    model = Trainer.build_model(configure(architecture))
    torch.save({"model": model.state_dict()}, tmp_path / "second.pth")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "second.pth")]
    own = {"RetrainedRCNN": "retrained_classifier.bias", "ScaledRCNN": "scaling.factor"}
    with raises_naming(ValueError, f"roi_heads.box_predictor.{own[architecture]}"):
        load_trained(configure("GeneralizedRCNN", "mask-linear", *weights))
    assert load_trained(configure(architecture, "mask-linear", *weights)).model is not None


def test_other_roi_heads_are_refused(configure):
    cfg = configure("RetrainedRCNN", "mask-linear", "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    with raises_naming(ValueError, "MODEL.ROI_HEADS.NAME", "StandardROIHeads", "LongTailROIHeads"):
        Trainer.build_model(cfg)
