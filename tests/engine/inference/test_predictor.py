# SPDX-License-Identifier: Apache-2.0
"""longtail.Predictor on the folders of runs whose data are gone."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultPredictor
from PIL import Image

import longtail
from longtail.config import deployed_config, load_config
from tests.messages import raises_naming
from tests.trained_runs import NAMES, RUNS, data_set, make_run, plain_model, write_pictures


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: make_run(name, folder / name) for name in RUNS}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    sizes = {"a.png": (32, 48), "b.png": (48, 40), "c.png": (32, 48)}
    return write_pictures(tmp_path_factory.mktemp("pictures"), sizes)


def reference(run, path):
    """The outputs for an image by detectron2's own predictor; it stands for detectors, too."""
    cfg = deployed_config(load_config(str(run / "config.yaml")))
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(run / "model_final.pth")
    predict = DefaultPredictor(cfg)
    return predict(np.asarray(Image.open(path))[..., ::-1])


@pytest.mark.parametrize("name", ["rr", "disalign"])
def test_segmentation(runs, pictures, name):
    predict = longtail.Predictor(runs[name])
    assert predict.class_names == NAMES and data_set(name) not in DatasetCatalog.list()
    for path, found in zip(pictures, predict(pictures), strict=True):
        probabilities = reference(runs[name], path)["sem_seg"].softmax(0)
        np.testing.assert_array_equal(found.labels, probabilities.argmax(0).numpy())
        np.testing.assert_allclose(found.scores, probabilities.amax(0).numpy(), atol=1e-5)
        assert len(np.unique(found.labels)) > 1 and found.scores.std() > 1e-3
        assert found.class_names == NAMES and len(found.colors) == 3
    assert predict(pictures[0], scores=False).scores is None


def test_what_only_training_has_is_left_out_and_calibration_is_kept(runs):
    names = {name: longtail.Predictor(runs[name]).model.state_dict() for name in RUNS}
    assert not [name for name in names["rr"] if "region" in name]
    saved = torch.load(runs["rr"] / "model_final.pth", weights_only=True)["model"]
    assert [name for name in saved if "region" in name]
    assert [name for name in names["disalign"] if "calibration" in name]
    assert [name for name in names["images"] if "calibration" in name]


@pytest.mark.parametrize("name", ["masks", "boxes"])
def test_detection(runs, pictures, name):
    predict = longtail.Predictor(runs[name])
    for path, found in zip(pictures, predict(pictures, batch_size=2), strict=True):
        expected = reference(runs[name], path)["instances"]
        own = found.instances
        assert own.image_size == expected.image_size and len(own) == len(expected) > 3
        torch.testing.assert_close(own.pred_boxes.tensor, expected.pred_boxes.tensor)
        torch.testing.assert_close(own.scores, expected.scores)
        assert own.pred_classes.tolist() == expected.pred_classes.tolist()
        assert own.has("pred_masks") == (name == "masks")
        if name == "masks":
            assert torch.equal(own.pred_masks, expected.pred_masks) and own.pred_masks.any()
        assert found.names == [NAMES[k] for k in expected.pred_classes]


def test_classification(runs, pictures):
    model = plain_model(runs["images"])
    found = longtail.Predictor(runs["images"])(pictures)
    for path, one in zip(pictures, found, strict=True):
        image = Image.open(path)
        # The shorter side becomes 40, and the central 32 x 32 are cut out.
        factor = 40 / min(image.size)
        size = [round(side * factor) for side in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = ((side - 32) // 2 for side in size)
        image = np.asarray(image.crop((left, top, left + 32, top + 32)))
        with torch.no_grad():
            tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
            expected = model([{"image": tensor}])[0]["scores"].numpy()
        np.testing.assert_allclose(one.probabilities, expected, atol=2e-3)
        best = int(expected.argmax())
        assert one.top(2)[0] == (NAMES[best], pytest.approx(expected[best], abs=2e-3))
        assert len(one.top()) == 3


@pytest.mark.parametrize("name", ["rr", "images"])
def test_every_form_of_an_image(runs, pictures, name):
    predict = longtail.Predictor(runs[name])
    rgb = np.asarray(Image.open(pictures[0]))
    forms = [str(pictures[0]), pictures[0], Image.open(pictures[0])]
    results = [*predict(forms), predict(rgb, channels="RGB")]
    results.append(predict(np.ascontiguousarray(rgb[..., ::-1]), channels="BGR"))
    values = [r.probabilities if name == "images" else r.scores for r in results]
    for value in values[1:]:
        np.testing.assert_allclose(value, values[0], atol=1e-6)
    other = predict(rgb, channels="BGR")
    other = other.probabilities if name == "images" else other.scores
    assert np.abs(other - values[0]).max() > 1e-3
    grey = predict(rgb[..., 0])
    same = predict(np.repeat(rgb[..., :1], 3, 2), channels="RGB")
    if name == "images":
        np.testing.assert_array_equal(grey.probabilities, same.probabilities)
    assert predict([]) == []


def test_bad_images(runs, pictures, tmp_path):
    predict = longtail.Predictor(runs["images"])
    rgb = np.asarray(Image.open(pictures[0]))
    with raises_naming(ValueError, "image 0", "channels='RGB'", "'BGR'"):
        predict(rgb)
    with raises_naming(ValueError, "image 1", "uint8", "float64"):
        predict([pictures[0], rgb / 255], channels="RGB")
    with raises_naming(ValueError, "image 0", "(4, 32, 48)"):
        predict(np.zeros((4, 32, 48), np.uint8), channels="RGB")
    with raises_naming(TypeError, "image 0", "int"):
        predict(7)
    with raises_naming(FileNotFoundError, "absent.png"):
        predict(tmp_path / "absent.png")
    (tmp_path / "bad.png").write_bytes(pictures[0].read_bytes()[:60])
    with raises_naming(ValueError, "bad.png"):
        predict([pictures[0], tmp_path / "bad.png"])


def test_bad_runs(runs, tmp_path):
    with raises_naming(FileNotFoundError, str(tmp_path), "config.yaml"):
        longtail.Predictor(tmp_path)
    shutil.copy(runs["images"] / "config.yaml", tmp_path)
    with raises_naming(FileNotFoundError, str(tmp_path), "no checkpoint"):
        longtail.Predictor(tmp_path)
    # A config alone names what training started from.
    with raises_naming(FileNotFoundError, "absent.pth"):
        longtail.Predictor(tmp_path / "config.yaml")
    with raises_naming(ValueError, "no device 'cuda:99'"):
        longtail.Predictor(runs["images"], device="cuda:99")
    with raises_naming(ValueError, "lack"):
        longtail.Predictor(runs["images"], runs["rr"] / "model_final.pth")


def test_names_come_from_the_weights_or_a_named_data_set(runs, tmp_path):
    from tests.trained_runs import registered

    run = runs["images"]
    saved = torch.load(run / "model_final.pth", weights_only=True)
    torch.save({"model": saved["model"]}, tmp_path / "unnamed.pth")
    with raises_naming(ValueError, "unnamed.pth", "names of their classes", "--dataset"):
        longtail.Predictor(run, tmp_path / "unnamed.pth")
    with registered("images", tmp_path) as name:
        predict = longtail.Predictor(run, tmp_path / "unnamed.pth", dataset=name)
        assert predict.class_names == NAMES
        torch.save({**saved, "class_names": ["a", "b", "c"]}, tmp_path / "other.pth")
        with raises_naming(ValueError, "class 0 is 'a'", "'red'"):
            longtail.Predictor(run, tmp_path / "other.pth", dataset=name)
    torch.save({**saved, "class_names": NAMES[:2]}, tmp_path / "two.pth")
    with raises_naming(ValueError, "MODEL.CLASSIFIER.NUM_CLASSES", "3 classes", "2"):
        longtail.Predictor(run, tmp_path / "two.pth")


def test_the_newest_checkpoint_is_taken(runs):
    cfg = longtail.Predictor(runs["images"]).cfg
    assert str(runs["images"] / "model_final.pth") == cfg.MODEL.WEIGHTS
    older = longtail.Predictor(runs["images"], runs["images"] / "model_0000002.pth")
    assert older.cfg.MODEL.WEIGHTS.endswith("model_0000002.pth")


PROGRAM = """
import sys
import longtail
assert "torch" not in sys.modules and "detectron2" not in sys.modules
predict = longtail.Predictor(sys.argv[1])
found = predict(sys.argv[2])
print(type(found).__name__, *found.class_names)
"""


def test_in_a_fresh_process_elsewhere(runs, pictures, tmp_path):
    """Nothing but the folder of the run and the image is known there."""
    shutil.copytree(runs["disalign"], tmp_path / "copied")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, "copied", str(pictures[0])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["SemSegPrediction", *NAMES], done.stderr
