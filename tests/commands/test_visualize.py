# SPDX-License-Identifier: Apache-2.0
"""longtail visualize on a small registered data set and models with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.commands import visualize
from longtail.config import load_config
from longtail.data.datasets import register_sem_seg
from longtail.engine import Trainer
from longtail.visualization.comparison import comparison

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 32, 64
DATASET = "test_visualize_sem_seg_val"
CLASSES = ["wall", "tree", "bus"]
COLORS = [[200, 10, 20], [30, 190, 40], [50, 60, 180]]
CONFIG = """
_BASE_: {base}
MODEL:
  TIMM:
    PRETRAINED: ""
  SEM_SEG_HEAD:
    NUM_CLASSES: {classes}
DATASETS:
  TEST: ({dataset!r},)
INPUT:
  MIN_SIZE_TEST: {size}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images with labels, registered; two configs; the weights of two models."""
    folder = tmp_path_factory.mktemp("visualize")
    rng = np.random.default_rng(0)
    for name in ("images", "labels", "saved"):
        (folder / name).mkdir()
    for stem in "abcde":
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{stem}.png")
        for name in ("labels", "saved"):
            labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (HEIGHT, WIDTH))
            Image.fromarray(labels).save(folder / name / f"{stem}.png")
    for name, classes in (("config", 3), ("config4", 4)):
        text = CONFIG.format(
            base=ROOT / "configs" / "Base-SemSeg-Lite0.yaml",
            classes=classes,
            dataset=DATASET,
            size=HEIGHT,
        )
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    cfg = load_config(str(folder / "config.yaml"))
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save({"model": Trainer.build_model(cfg).state_dict()}, folder / f"{seed}.pth")
    register_sem_seg(DATASET, folder / "images", folder / "labels", CLASSES, colors=COLORS)
    yield folder
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


def run(output: Path, *arguments: str | Path) -> dict[str, np.ndarray]:
    """The pictures that the command writes, by their stem, without the sheet of several."""
    visualize.main(["--output", str(output), *map(str, arguments)])
    assert {path.suffix for path in output.iterdir()} == {".png"}
    pictures = {path.stem: np.asarray(Image.open(path)) for path in sorted(output.iterdir())}
    assert (pictures.pop("contact_sheet", None) is not None) == (len(pictures) > 1)
    return pictures


def fail(output: Path, *arguments: str | Path) -> str:
    """The one line of a command that has to fail, without a picture."""
    with pytest.raises(SystemExit) as caught:
        visualize.main(["--output", str(output), *map(str, arguments)])
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    assert not output.is_dir() or not list(output.iterdir())
    return message


def model(folder: Path, seed: int, config: str = "config.yaml") -> list[str | Path]:
    return ["--model", f"model {seed}", folder / config, folder / f"{seed}.pth"]


def read(folder: Path, name: str, stem: str) -> np.ndarray:
    return np.asarray(Image.open(folder / name / f"{stem}.png"))


def predict(folder: Path, seed: int, stem: str) -> np.ndarray:
    """The predictions of a model, from its logits; images of the test size are not resized."""
    cfg = load_config(str(folder / "config.yaml"))
    net = Trainer.build_model(cfg).eval()
    net.load_state_dict(torch.load(folder / f"{seed}.pth", weights_only=True)["model"])
    image = torch.from_numpy(read(folder, "images", stem).transpose(2, 0, 1).copy())
    with torch.no_grad():
        return net([{"image": image}])[0]["sem_seg"].argmax(dim=0).numpy()


def test_models_on_their_test_set(folder, tmp_path):
    arguments = [*model(folder, 1), *model(folder, 2), "--num-images", "2"]
    pictures = run(tmp_path / "out", *arguments)
    assert list(pictures) == ["a", "e"]
    predictions = {f"model {seed}": predict(folder, seed, "a") for seed in (1, 2)}
    image, labels = read(folder, "images", "a"), read(folder, "labels", "a")
    expected = comparison(image, labels, predictions, CLASSES, COLORS)
    np.testing.assert_array_equal(pictures["a"], expected)


def test_saved_predictions_need_no_model(folder, tmp_path):
    arguments = ["--dataset", DATASET, "--predictions", "saved", folder / "saved"]
    pictures = run(tmp_path / "out", *arguments)
    assert list(pictures) == list("abcde")
    for stem, picture in pictures.items():
        parts = {name: read(folder, name, stem) for name in ("images", "labels", "saved")}
        expected = comparison(
            parts["images"], parts["labels"], {"saved": parts["saved"]}, CLASSES, COLORS
        )
        np.testing.assert_array_equal(picture, expected)


def test_own_images_have_no_ground_truth(folder, tmp_path):
    own = tmp_path / "mine.jpg"
    Image.fromarray(read(folder, "images", "b")).save(own.with_suffix(".png"))
    pictures = run(
        *(tmp_path / "out", *model(folder, 1), "--dataset", DATASET),
        *("--images", own.with_suffix(".png")),
    )
    expected = comparison(
        read(folder, "images", "b"), None, {"model 1": predict(folder, 1, "b")}, CLASSES, COLORS
    )
    np.testing.assert_array_equal(pictures["mine"], expected)


@pytest.mark.parametrize("number, stems", [(1, "a"), (3, "ace"), (5, "abcde"), (99, "abcde")])
def test_images_are_spread_over_the_data_set(folder, tmp_path, number, stems):
    saved = ["--dataset", DATASET, "--predictions", "saved", folder / "saved"]
    pictures = run(tmp_path / "out", *saved, "--num-images", str(number))
    assert list(pictures) == list(stems)


def test_missing_files_are_named(folder, tmp_path):
    out, config, weights = tmp_path / "out", folder / "config.yaml", folder / "1.pth"
    absent = tmp_path / "absent"
    assert f"config file {absent} does not exist" in fail(out, "--model", "m", absent, weights)
    assert f"weights {absent} do not exist" in fail(out, "--model", "m", config, absent)
    assert f"image {absent} does not exist" in fail(out, *model(folder, 1), "--images", absent)
    saved = ["--dataset", DATASET, "--predictions", "saved"]
    assert f"folder {absent} does not exist" in fail(out, *saved, absent)
    absent.mkdir()
    assert f"{absent} does not have a.png" in fail(out, *saved, absent)


def test_unreadable_files_are_named(folder, tmp_path):
    out, bad = tmp_path / "out", tmp_path / "bad"
    bad.write_text("hello", encoding="utf-8")
    own = [*model(folder, 1), "--dataset", DATASET, "--images"]
    message = fail(out, *own, bad)
    assert f"{bad} cannot be read as an image" in message
    message = fail(out, "--model", "m", folder / "config.yaml", bad)
    assert f"weights {bad} are damaged or no checkpoint" in message
    cut = tmp_path / "cut.png"
    content = (folder / "images" / "a.png").read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    assert f"{cut} cannot be read" in fail(out, *own, cut)


def test_models_must_have_the_data_sets_classes(folder, tmp_path):
    message = fail(tmp_path / "out", *model(folder, 1), *model(folder, 2, "config4.yaml"))
    assert "model 'model 2' has 4 classes" in message and f"{DATASET} has 3" in message


def test_weights_must_fill_the_model(folder, tmp_path):
    state = torch.load(folder / "1.pth", weights_only=True)["model"]
    del state["sem_seg_head.predictor.weight"]
    torch.save({"model": state}, tmp_path / "part.pth")
    message = fail(tmp_path / "out", "--model", "m", folder / "config.yaml", tmp_path / "part.pth")
    assert "model 'm': the weights lack 1 of the model's tensors" in message
    assert "sem_seg_head.predictor.weight" in message


def test_saved_predictions_must_fit(folder, tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    arguments = ["--dataset", DATASET, "--predictions", "mine", saved]
    Image.fromarray(np.full((HEIGHT, WIDTH), 3, np.uint8)).save(saved / "a.png")
    assert "a.png: mine: a label map has the value 3" in fail(tmp_path / "out", *arguments)
    Image.fromarray(np.zeros((HEIGHT, 7), np.uint8)).save(saved / "a.png")
    assert f"size 7x{HEIGHT}, but its image {WIDTH}x" in fail(tmp_path / "out", *arguments)
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(saved / "a.png")
    assert "a.png has mode RGB, but a label map has one 8-bit" in fail(tmp_path / "out", *arguments)


def test_arguments_that_make_no_picture(folder, tmp_path):
    out, saved = tmp_path / "out", ["--predictions", "saved", folder / "saved"]
    assert "one or more --model or --predictions" in fail(out)
    assert "a name of its own" in fail(out, *saved, *saved, "--dataset", DATASET)
    assert "give --dataset" in fail(out, *saved)
    assert "not registered" in fail(out, *saved, "--dataset", "nonsense")
    assert "--num-images must be 1" in fail(out, *saved, "--dataset", DATASET, "--num-images", "0")
    (tmp_path / "x").mkdir()
    files = [tmp_path / "twice.png", tmp_path / "x" / "twice.png"]
    for file in files:
        Image.fromarray(read(folder, "images", "a")).save(file)
    assert "would both become twice.png" in fail(out, *model(folder, 1), "--images", *files)
    taken = tmp_path / "taken"
    taken.write_text("a file", encoding="utf-8")
    assert "is a file: name a folder" in fail(taken, *saved, "--dataset", DATASET)
