# SPDX-License-Identifier: Apache-2.0
"""longtail export on tiny models: what is written computes what was trained."""

import subprocess
import sys

import pytest
import torch

from longtail.commands import export
from longtail.config import Folding, deployed_config
from longtail.engine import Trainer
from longtail.engine.checkpoint import CompleteCheckpointer
from longtail.engine.deployment import folding
from longtail.engine.deployment.export import class_scores, random_images, relative_difference
from longtail.engine.deployment.post_hoc import apply_post_hoc
from tests.disalign.detectors import disturb, randomize
from tests.messages import raises_naming
from tests.tiny import register_stripes, tiny_config, tiny_config_file
from tests.tiny_classification import (
    classification_config,
    classification_config_file,
    register_colors,
    unregister,
)
from tests.tiny_detection import CASCADE, detector_config

COLORS, STRIPES = "export_colors", "export_stripes"
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
ARCHITECTURE, HEAD = "MODEL.META_ARCHITECTURE", "MODEL.SEM_SEG_HEAD.NAME"
WITHOUT_CONFIDENCE = ["MODEL.DISALIGN.CONFIDENCE", "False"]
COSINE = ["MODEL.CLASSIFIER.TYPE", "cosine"]
DISALIGN_HEAD = [HEAD, "DisAlignSemSegHead", "MODEL.DISALIGN.BASE_HEAD_NAME", "FCNHead"]
REGION_REBALANCE = ["MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHead"]
FINE = ["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2']"]
SIZE = {"images": 32, "pixels": 32, "boxes": 64}


@pytest.fixture(scope="module", autouse=True)
def data_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        register_colors(COLORS, folder / COLORS)
        register_stripes(STRIPES, folder / STRIPES)
        yield
    unregister(COLORS, STRIPES)


class Trained:
    """A model with weights that are no start, its checkpoint, and the command on it."""

    def __init__(self, folder, task, overrides):
        self.folder, self.task = folder, task
        self.weights, self.output = folder / "model_final.pth", folder / "out" / "deployed"
        names = {"images": (COLORS,), "pixels": (STRIPES,), "boxes": ()}[task]
        self.options = ["DATASETS.TRAIN", names, *overrides]
        self.cfg = self.config(self.options)
        torch.manual_seed(0)
        self.model = disturb(Trainer.build_model(self.cfg))
        self.make_different()
        torch.save({"model": self.model.state_dict(), "iteration": 3}, self.weights)
        self.model.eval()

    def config(self, options):
        make = {"images": classification_config, "pixels": tiny_config, "boxes": detector_config}
        return make[self.task](self.folder, options)

    @torch.no_grad()
    def make_different(self):
        if self.task == "boxes":
            randomize(self.model)
        for name, parameter in self.model.named_parameters():
            if name.endswith(("classifier.weight", "predictor.weight", "bias")):
                parameter.add_(0.3 * torch.randn_like(parameter))
            if name.endswith("scaling.factor"):
                parameter.mul_(torch.rand_like(parameter) + 0.5)

    def run(self, *arguments):
        files = {"images": classification_config_file, "pixels": tiny_config_file}
        path = self.folder / "detector.yaml"
        config_file = files[self.task](self.folder) if self.task in files else path
        given = ["--config-file", config_file, "--weights", self.weights, "--output", self.output]
        export.main([str(a) for a in (*given, *arguments, *self.options)])

    def fail(self, *arguments):
        with pytest.raises(SystemExit) as caught:
            self.run(*arguments)
        message = str(caught.value)
        assert message.startswith("error: ") and "\n" not in message
        assert not self.output.exists() and not list(self.folder.glob("out/.*"))
        return message

    def images(self, *sizes):
        return random_images([*[(SIZE[self.task],) * 2] * 2, *sizes], self.model.device)


@pytest.fixture
def trained(tmp_path):
    """A function that gives a trained model of a task, with values of its config replaced."""
    return lambda task, *overrides: Trained(tmp_path, task, overrides)


def load_baseline(trained, **changed):
    """The model of a config without the method, with the exported file in it."""
    options = [*trained.options, *(part for pair in changed.items() for part in pair)]
    cfg = deployed_config(trained.config(options))
    model = Trainer.build_model(cfg).eval()
    saved = torch.load(trained.output, weights_only=True)
    assert saved["model"].keys() == model.state_dict().keys()
    method = trained.cfg.MODEL.POST_HOC.METHOD
    assert {k: v for k, v in saved.items() if k != "model"} == (
        {"post_hoc": method} if method else {}
    )
    CompleteCheckpointer(model).load(str(trained.output))
    return model


def assert_same_scores(model, baseline, images):
    for image in images:
        scores = class_scores(model, image)
        torch.testing.assert_close(class_scores(baseline, image), scores, rtol=0, atol=1e-6)
        assert scores.std() > 1e-3


CHECKPOINTS = {
    "baseline of images": ("images", []),
    "cRT": ("images", [ARCHITECTURE, "RetrainedImageClassifier"]),
    "cosine cRT": ("images", [ARCHITECTURE, "RetrainedImageClassifier", *COSINE]),
    "LWS": ("images", [ARCHITECTURE, "ScaledImageClassifier"]),
    "DisAlign on images": (
        "images",
        [ARCHITECTURE, "DisAlignImageClassifier", *WITHOUT_CONFIDENCE],
    ),
    "RR": ("pixels", [HEAD, "RegionRebalanceHead", *REGION_REBALANCE]),
    "DisAlign on pixels": ("pixels", [*DISALIGN_HEAD, *WITHOUT_CONFIDENCE]),
    "RR and DisAlign": (
        "pixels",
        [*DISALIGN_HEAD[:-1], "RegionRebalanceHead", *REGION_REBALANCE, *WITHOUT_CONFIDENCE],
    ),
    "DisAlign on a cascade": (
        "boxes",
        [*CASCADE, ARCHITECTURE, "DisAlignRCNN", *WITHOUT_CONFIDENCE],
    ),
}
BASELINES = {
    "images": {ARCHITECTURE: "ImageClassifier"},
    "pixels": {HEAD: "FCNHead"},
    "boxes": {ARCHITECTURE: "GeneralizedRCNN"},
}


@pytest.mark.parametrize(("task", "overrides"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_of_the_baseline(trained, task, overrides, capsys):
    given = trained(task, *overrides)
    if "DisAlignRCNN" in overrides:
        given.options += ["DATASETS.TRAIN", ()]
    given.run()
    baseline = load_baseline(given, **BASELINES[task])
    assert not getattr(baseline, "trained_module_names", ())
    assert_same_scores(given.model, baseline, given.images())
    out = capsys.readouterr().out
    assert f"{given.output}: checkpoint, largest relative difference " in out
    said = out.splitlines()[-1]
    ((key, value),) = BASELINES[task].items()
    # Of a baseline there is nothing to say.
    assert said.startswith("config: ") and said.endswith(f"{key} {value}") == bool(overrides)


@pytest.mark.parametrize(
    ("task", "method", "overrides"),
    [
        ("images", "tau_norm", []),
        ("images", "ncm", ["MODEL.POST_HOC.NCM_DISTANCE", "cosine"]),
        ("pixels", "ncm", ["MODEL.POST_HOC.NCM_DISTANCE", "cosine", *FINE]),
        ("images", "logit_adjustment", []),
        ("pixels", "logit_adjustment", []),
        ("pixels", "tau_norm", [HEAD, "RegionRebalanceHead", *REGION_REBALANCE]),
        ("boxes", "tau_norm", []),
    ],
)
def test_a_post_hoc_method_becomes_the_baselines_weights(trained, task, method, overrides, capsys):
    given = trained(task, "MODEL.POST_HOC.METHOD", method, *overrides)
    given.run()
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("config: ") and said.endswith("MODEL.POST_HOC.METHOD ''")
    method = {"MODEL.POST_HOC.METHOD": ""}
    baseline = load_baseline(given, **method, **(BASELINES[task] if HEAD in overrides else {}))
    before = class_scores(given.model, given.images()[0])
    apply_post_hoc(given.cfg, given.model)
    assert relative_difference(before, class_scores(given.model, given.images()[0])) > 0.01
    assert_same_scores(given.model, baseline, given.images())


SCRIPTS = {
    "DisAlign on images": ("images", [ARCHITECTURE, "DisAlignImageClassifier"], "confidence"),
    "cosine LWS": ("images", [ARCHITECTURE, "ScaledImageClassifier", *COSINE], "CosineLinear"),
    "cosine DisAlign": (
        "images",
        [ARCHITECTURE, "DisAlignImageClassifier", *COSINE, *WITHOUT_CONFIDENCE],
        "CosineLinear",
    ),
    "DisAlign on pixels": ("pixels", DISALIGN_HEAD, "confidence"),
    "DisAlign on a cascade": ("boxes", [*CASCADE, ARCHITECTURE, "DisAlignRCNN"], "confidence"),
}


@pytest.mark.parametrize(("task", "overrides", "why"), SCRIPTS.values(), ids=SCRIPTS)
def test_torchscript_where_no_checkpoint_is_exact(trained, task, overrides, why, capsys):
    given = trained(task, *overrides)
    assert why in given.fail("--format", "checkpoint")
    given.run()
    out = capsys.readouterr().out
    assert "TorchScript, because" in out and why in out
    assert "takes images of other sizes, too" in out
    graph = torch.jit.load(given.output)
    for image in given.images((50, 70), (96, 64)):
        with torch.no_grad():
            found = graph(image)
            if task == "boxes":
                output = given.model.inference([{"image": image}], do_postprocess=False)[0]
                expected = (output.pred_boxes.tensor, output.scores, output.pred_classes)
                expected += (output.pred_masks,)
                assert len(output)
            else:
                expected = tuple(given.model([{"image": image}])[0].values())
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_nearest_means_of_pixels_become_torchscript(trained, capsys):
    given = trained("pixels", "MODEL.POST_HOC.METHOD", "ncm", *FINE)
    given.run()
    assert "TorchScript, because the nearest class mean" in capsys.readouterr().out
    apply_post_hoc(given.cfg, given.model)
    for image in given.images((50, 70)):
        with torch.no_grad():
            expected = given.model([{"image": image}])[0]["sem_seg"]
            (found,) = torch.jit.load(given.output)(image)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_torchscript_needs_neither_the_project_nor_detectron2(trained, tmp_path):
    given = trained("images", ARCHITECTURE, "DisAlignImageClassifier")
    given.run("--format", "torchscript")
    image = given.images()[0]
    torch.save(image, tmp_path / "image.pt")
    program = (
        "import sys, torch; graph = torch.jit.load(sys.argv[1])\n"
        "print(*graph(torch.load(sys.argv[2]))[0].tolist())\n"
        "assert not {'detectron2', 'longtail', 'disalign', 'timm'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(given.output), str(tmp_path / "image.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = given.model([{"image": image}])[0]["scores"]
    found = torch.tensor([float(score) for score in done.stdout.split()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_graph_for_one_size_alone(trained, capsys, monkeypatch):
    """A backbone that makes constants of its sizes: here, of the number of rows."""
    given = trained("images")
    forward = type(given.model).features

    def features(self, inputs):
        rows = int(inputs[0]["image"].shape[1])
        return forward(self, inputs) * torch.tensor(rows / 32)

    monkeypatch.setattr(type(given.model), "features", features)
    given.run("--format", "torchscript")
    assert "traced with 32 x 32 pixels, takes no other size" in capsys.readouterr().out


# --- what cannot be done ---


@pytest.mark.parametrize("form", ["checkpoint", "torchscript"])
def test_a_file_that_computes_something_else_is_not_left(trained, monkeypatch, form):
    given = trained("images", ARCHITECTURE, "ScaledImageClassifier")
    given.output.parent.mkdir()
    given.output.write_bytes(b"what was there before")
    if form == "checkpoint":
        wrong = Folding(
            ARCHITECTURE, "ScaledImageClassifier", lambda cfg: "ImageClassifier", lambda model: None
        )
        monkeypatch.setattr(folding, "OWN_FOLDINGS", (wrong,))
    else:
        load = torch.jit.load

        def load_another(*arguments, **options):
            graph = load(*arguments, **options)
            return lambda image: (1.01 * graph(image)[0],)

        monkeypatch.setattr(torch.jit, "load", load_another)
    with raises_naming(SystemExit, "error:", "1e-05"):
        given.run("--format", form)
    assert given.output.read_bytes() == b"what was there before"
    assert len(list(given.output.parent.iterdir())) == 1


def test_a_detector_that_finds_nothing(trained):
    given = trained("boxes", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0")
    assert "lower MODEL.ROI_HEADS.SCORE_THRESH_TEST" in given.fail("--format", "torchscript")


def test_bad_input_is_said_in_one_line(trained, tmp_path):
    given = trained("images")
    given.output = tmp_path / "deployed.pkl"
    assert "must name a file, and not end with .pkl" in given.fail()
    given.output = tmp_path / "deployed.pth"
    saved = given.weights.read_bytes()
    given.weights.write_bytes(saved[:1000])
    assert "are damaged" in given.fail()
    given.weights.unlink()
    assert "do not exist" in given.fail()
    given.weights.write_bytes(saved)
    given.options += [ARCHITECTURE, "DisAlignImageClassifier"]
    assert "calibration" in given.fail()
    given.options += [ARCHITECTURE, "ImageClassifier", "MODEL.POST_HOC.METHOD", "taunorm"]
    assert "MODEL.POST_HOC.METHOD must be one of" in given.fail()


def test_models_of_another_kind(trained):
    given = trained("boxes")
    given.options += [ARCHITECTURE, "ProposalNetwork"]
    assert "a ProposalNetwork cannot be exported" in given.fail()


@pytest.mark.parametrize("kind", ["checkpoint", "torchscript", "bundle"])
def test_maps_of_scores_are_no_weights(trained, kind):
    given = trained("boxes")
    given.options += ["MODEL.POST_HOC.METHOD", "score_calibration"]
    assert "score_calibration maps scores, not weights" in given.fail("--format", kind)


def test_a_post_hoc_method_is_not_applied_twice(trained):
    given = trained("images", "MODEL.POST_HOC.METHOD", "tau_norm")
    given.run()
    assert torch.load(given.output, weights_only=True)["post_hoc"] == "tau_norm"
    given.weights, given.output = given.output, given.folder / "again.pth"
    message = given.fail()
    assert "tau_norm has already changed the classifier of" in message
    # Without a method it is a baseline like any other.
    given.options += ["MODEL.POST_HOC.METHOD", ""]
    given.run()
    assert "post_hoc" not in torch.load(given.output, weights_only=True)


def test_a_trained_confidence_is_not_left_out(trained):
    given = trained("images", ARCHITECTURE, "DisAlignImageClassifier")
    given.options += WITHOUT_CONFIDENCE
    assert "was trained with calibration.confidence_layer.bias, which this" in given.fail()
