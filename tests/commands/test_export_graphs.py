# SPDX-License-Identifier: Apache-2.0
"""longtail export to ONNX, torch.export's programs, bundles and safetensors, on small runs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import longtail
from longtail.commands import convert_weights, export
from longtail.engine.deployment import graphs
from longtail.engine.weights_file import read_safetensors
from tests.messages import assert_names, raises_naming
from tests.trained_runs import NAMES, make_run, plain_model, write_pictures

# What a program of a bundle must not need.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[2:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: make_run(name, folder / name) for name in ("disalign", "images", "boxes")}


def run(run_folder, output, *arguments):
    given = ["--config-file", run_folder / "config.yaml", "--output", output, *arguments]
    given += ["--weights", run_folder / "model_final.pth"]
    export.main([str(argument) for argument in given])


def fail(*arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    return message


def expected_of(model, images):
    with torch.no_grad():
        outputs = [model([{"image": image}])[0] for image in images]
    return torch.stack([next(iter(output.values())) for output in outputs])


def random_batch(*shape):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name, shape", [("disalign", (2, 3, 45, 70)), ("images", (4, 3, 32, 32))])
def test_onnx(runs, tmp_path, name, shape, capsys):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    run(runs[name], tmp_path / "model.onnx", "--format", "onnx")
    assert ("any size" in capsys.readouterr().out) == (name == "disalign")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    images = random_batch(*shape)
    (found,) = session.run(None, {"images": images.numpy()})
    expected = expected_of(plain_model(runs[name]), images)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


def test_what_differs_is_not_kept(runs, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    forward = graphs.BatchToTensor.forward
    monkeypatch.setattr(
        graphs.BatchToTensor, "forward", lambda self, images: forward(self, images) * 1.01
    )
    message = fail(runs["images"], tmp_path / "model.onnx", "--format", "onnx")
    assert "differs by" in message and not list(tmp_path.iterdir())


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: None)
    with raises_naming(ImportError, "onnxruntime", "detectron2-longtail[onnx]"):
        graphs.require_onnx()


def test_detectors_and_windows_are_refused(runs, tmp_path):
    message = fail(runs["boxes"], tmp_path / "x.pt2", "--format", "torch-export")
    assert_names(message, "GeneralizedRCNN", "torchscript")
    given = (runs["disalign"], tmp_path / "x", "--format", "bundle")
    message = fail(*given, "TEST.SEM_SEG.MODE", "slide")
    assert_names(message, "TEST.SEM_SEG.MODE")
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert_names(fail(runs["images"], tmp_path / "file", "--format", "bundle"), "--output")


def run_bundle(folder, cwd, image, *blocked):
    blocked = ",".join(("longtail", "detectron2", "disalign", "torchvision", "timm", *blocked))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKED, blocked, str(folder / "run.py"), image],
        *(),
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bundle_of_a_segmentor_needs_torch_alone(runs, tmp_path):
    run(runs["disalign"], tmp_path / "bundle", "--format", "bundle")
    (picture,) = write_pictures(tmp_path, {"a.png": (32, 48)})
    run_bundle(tmp_path / "bundle", tmp_path, "a.png")
    labels = Image.open(tmp_path / "a_labels.png")
    expected = longtail.Predictor(runs["disalign"])(picture)
    # The graph enlarges its logits to its input, which here is larger than the image.
    assert (np.asarray(labels) == expected.labels).mean() > 0.97
    assert len(np.unique(labels)) > 1 and labels.mode == "P"
    about = json.loads((tmp_path / "bundle" / "model.json").read_text(encoding="utf-8"))
    assert about["class_names"] == NAMES and about["input"]["channels"] == "RGB"
    assert about["input"]["shorter_side"] == 64 and about["input"]["size"] is None
    # The folder is one of a run, too.
    again = longtail.Predictor(tmp_path / "bundle")
    assert again.class_names == NAMES
    np.testing.assert_array_equal(again(picture).labels, expected.labels)


def test_bundle_of_a_classifier_needs_onnxruntime_alone(runs, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    run(runs["images"], tmp_path / "bundle", "--format", "bundle-onnx")
    (picture,) = write_pictures(tmp_path, {"a.png": (48, 40)})
    line = run_bundle(tmp_path / "bundle", tmp_path, "a.png", "torch", "onnx").strip()
    (name, probability), *_ = longtail.Predictor(runs["images"])(picture).top()
    found = line.split("\t")
    assert found[0] == "a.png" and found[1].split()[0] == name
    assert float(found[1].split()[1]) == pytest.approx(probability, abs=2e-3)


def test_safetensors(runs, tmp_path):
    folder = runs["images"]
    convert_weights.main([str(folder / "model_final.pth"), str(tmp_path / "w.safetensors")])
    content = read_safetensors(str(tmp_path / "w.safetensors"))
    saved = torch.load(folder / "model_final.pth", weights_only=True)
    assert content["class_names"] == NAMES
    assert content["model"].keys() == saved["model"].keys()
    assert all(torch.equal(content["model"][k], v) for k, v in saved["model"].items())
    predict = longtail.Predictor(folder, tmp_path / "w.safetensors")
    image = np.zeros((40, 40, 3), np.uint8)
    np.testing.assert_array_equal(
        predict(image, channels="RGB").probabilities,
        longtail.Predictor(folder)(image, channels="RGB").probabilities,
    )
    convert_weights.main([str(tmp_path / "w.safetensors"), str(tmp_path / "back.pth")])
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back["class_names"] == NAMES and back["model"].keys() == saved["model"].keys()
    run(folder, tmp_path / "e.safetensors", "MODEL.DISALIGN.CONFIDENCE", "True")
    with open(tmp_path / "w.safetensors", "r+b") as file:
        file.truncate(1000)
    with raises_naming(ValueError, str(tmp_path / "w.safetensors"), "damaged"):
        longtail.Predictor(folder, tmp_path / "w.safetensors")
