# SPDX-License-Identifier: Apache-2.0
"""Models by name: whole, or not at all."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathManager
from safetensors.torch import load_file, save_file
from torch import nn

import longtail
from longtail.config import get_config_file
from longtail.engine.checkpoint import Checkpointer
from longtail.engine.inference.trained import trained_config
from longtail.utils import model_zoo
from tests.messages import raises_naming

FOLDER = Path(longtail.__file__).parent / "model_zoo"
MODELS = json.loads((FOLDER / "models.json").read_text())


def test_the_table_is_of_the_files_and_they_are_small():
    files = {p.relative_to(FOLDER).as_posix(): p for p in FOLDER.glob("**/*") if p.is_file()}
    del files["models.json"]
    assert set(files) == {f"{name}.safetensors" for name in MODELS}
    for name, model in MODELS.items():
        content = files[f"{name}.safetensors"].read_bytes()
        assert hashlib.sha256(content).hexdigest() == model["sha256"]
        assert len(content) == model["bytes"]
        get_config_file(f"{name}.yaml")
    assert sum(model["bytes"] for model in MODELS.values()) < 20e6


@pytest.mark.parametrize("name", MODELS)
def test_weights_lost_nothing_but_precision(name):
    for tensor in load_file(FOLDER / f"{name}.safetensors").values():
        assert tensor.dtype in (torch.float16, torch.int64) and tensor.isfinite().all()


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A zoo of one model, a/b, whose only weight is [1.5, 2.5]; its file."""
    file = tmp_path / "a" / "b.safetensors"
    file.parent.mkdir()
    save_file({"weight": torch.tensor([[1.5, 2.5]]).half(), "bias": torch.tensor([0.5])}, file)
    entry = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    (tmp_path / "models.json").write_text(json.dumps({"a/b": entry}))
    monkeypatch.setattr(model_zoo, "ZOO", tmp_path)
    return file


def test_weights_by_name(zoo):
    assert PathManager.get_local_path("longtail://a/b") == str(zoo)
    assert PathManager.isfile("longtail://a/b") and not PathManager.isfile("longtail://a/c")
    with PathManager.open("longtail://a/b", "rb") as file:
        assert file.read() == zoo.read_bytes()
    model = nn.Linear(2, 1)
    Checkpointer(model).load("longtail://a/b")
    # As float32, in which the model stays.
    assert model.weight.tolist() == [[1.5, 2.5]] and model.weight.dtype == torch.float32


def test_another_file_is_refused(zoo):
    content = bytearray(zoo.read_bytes())
    content[-1] ^= 1
    zoo.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with raises_naming(ValueError, "longtail://a/b", str(zoo), found, "install"):
        PathManager.get_local_path("longtail://a/b")
    with raises_naming(ValueError, found):
        Checkpointer(nn.Linear(2, 1)).load("longtail://a/b")
    zoo.unlink()
    with raises_naming(FileNotFoundError, "longtail://a/b", str(zoo)):
        PathManager.get_local_path("longtail://a/b")


@pytest.mark.parametrize("name", ["a/bb", "../a/b", "a/b.yaml", ""])
def test_unknown_names(zoo, name):
    with raises_naming(ValueError, f"longtail://{name}", "a/b"):
        trained_config(f"longtail://{name}")
    with raises_naming(ValueError, f"longtail://{name}"):
        PathManager.get_local_path(f"longtail://{name}")


def test_the_config_of_a_model_is_the_packaged_one_of_its_name():
    cfg = trained_config("longtail://digits-LT/linear")
    assert cfg.MODEL.WEIGHTS == "longtail://digits-LT/linear"
    assert cfg.OUTPUT_DIR == "output/digits-LT/linear" and cfg.MODEL.TIMM.NAME == "test_resnet"
    # Other weights of the same model.
    assert trained_config("longtail://digits-LT/linear", "a.pth").MODEL.WEIGHTS == "a.pth"
