# SPDX-License-Identifier: Apache-2.0
"""longtail convert-weights: its files and its command line."""

import argparse
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from detectron2.modeling import build_model
from torch import Tensor, nn

from longtail.commands import convert_weights
from longtail.config import deployed_config, load_config
from longtail.engine.checkpoint import Checkpointer
from longtail.engine.deployment import conversion
from longtail.modeling.backbone import TimmBackbone
from longtail.modeling.conversion import to_peer
from tests.messages import raises_naming

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "ADE20K" / "fcn_R_50c_160k_rr.yaml")
# A small model of it.
TINY = ["MODEL.TIMM.NAME", "resnet18", "MODEL.TIMM.OUTPUT_STRIDE", "32"]
TINY += ["MODEL.SEM_SEG_HEAD.CONVS_DIM", "8", "MODEL.SEM_SEG_HEAD.AUXILIARY.CONVS_DIM", "8"]

# open-mmlab's name of every tensor of the stem, by timm's: the stem of ResNetV1c is the Sequential
# (conv, norm, ReLU) x 3, that of timm conv1 = (conv, norm, ReLU, conv, norm, ReLU, conv), bn1.
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
STEM_NAMES = {
    "conv1.0.weight": "stem.0.weight",
    "conv1.3.weight": "stem.3.weight",
    "conv1.6.weight": "stem.6.weight",
    **{f"conv1.1.{tensor}": f"stem.1.{tensor}" for tensor in NORM},
    **{f"conv1.4.{tensor}": f"stem.4.{tensor}" for tensor in NORM},
    **{f"bn1.{tensor}": f"stem.7.{tensor}" for tensor in NORM},
}


def random_model(name: str) -> nn.Module:
    """A timm classifier whose tensors are all different, also the statistics of the norms."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif key.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
            tensor.uniform_(0.5, 1.5)
        elif key.endswith("num_batches_tracked"):
            tensor.fill_(7)
    return model


def v1c_state(model: nn.Module) -> dict[str, Tensor]:
    return OrderedDict((STEM_NAMES.get(k, k), v) for k, v in model.state_dict().items())


class Segmentor(nn.Module):
    """The name that every model of the project gives its backbone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = TimmBackbone(name=name, output_stride=8, out_features=("res2", "res5"))


@pytest.fixture(scope="module")
def resnet50c() -> nn.Module:
    return random_model("resnet50c")


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    """A whole model of ours."""
    torch.manual_seed(0)
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu", *TINY])
    return build_model(deployed_config(cfg))


@pytest.fixture
def source(tiny: nn.Module, tmp_path: Path) -> Path:
    """The same under mmsegmentation's names."""
    path = tmp_path / "fcn_r18.pth"
    torch.save({"meta": {"epoch": 3}, "state_dict": to_peer(tiny.state_dict())}, path)
    return path


def run(source: Path, target: Path, *options: str) -> None:
    convert_weights.main([str(source), str(target), *options])


def fail(source: Path, target: Path, *options: str) -> str:
    """The message of a conversion that has to fail, and to leave no file behind."""
    with pytest.raises(SystemExit) as caught:
        run(source, target, *options)
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    assert not list(target.parent.glob(f"*{target.name}*"))
    return message


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


# --- whole models ---


def test_there_and_back(tiny, source, tmp_path, capsys):
    ours, back = tmp_path / "new" / "ours.pth", tmp_path / "back.pth"
    run(source, ours, "--config-file", CONFIG, *TINY)
    assert_same(load(ours)["model"], tiny.state_dict())
    run(ours, back, "--to-mmseg")
    assert_same(load(back)["state_dict"], load(source)["state_dict"])
    count = len(tiny.state_dict())
    assert capsys.readouterr().out.splitlines() == [
        f"{ours}: {count} tensors, a whole model",
        f"{back}: {count} tensors, for mmsegmentation",
    ]


@pytest.mark.parametrize("pads", ["True", "False"])
def test_a_config_that_pads_images_otherwise_than_mmsegmentation(source, tmp_path, capsys, pads):
    """Its weights then give other results, of which nothing in the file tells."""
    key = "MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE"
    run(source, tmp_path / "out.pth", "--config-file", CONFIG, *TINY, key, pads)
    told = capsys.readouterr().out
    assert (f"set {key} False" in told) == (key in told) == (pads == "True")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_layouts_of_a_file(tiny, source, tmp_path, prefix):
    state = {prefix + name: tensor for name, tensor in load(source)["state_dict"].items()}
    torch.save(state, source, _use_new_zipfile_serialization=False)
    run(source, tmp_path / "out.pth", "--config-file", CONFIG, *TINY)
    assert_same(load(tmp_path / "out.pth")["model"], tiny.state_dict())


def test_a_checkpoint_of_the_region_branch_becomes_the_deployed_model(tiny, source, tmp_path):
    trained = {**tiny.state_dict(), "sem_seg_head.region_classifier.bias": torch.zeros(150)}
    path, target = tmp_path / "model_final.pth", tmp_path / "mmseg.pth"
    torch.save({"model": trained, "iteration": 3}, path)
    run(path, target, "--to-mmseg", "--config-file", CONFIG, *TINY)
    assert_same(load(target)["state_dict"], load(source)["state_dict"])


def test_another_number_of_classes(tiny, source, tmp_path, capsys):
    target = tmp_path / "out.pth"
    options = ("--config-file", CONFIG, *TINY, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5")
    message = fail(source, target, *options)
    assert "tell 150 classes apart, the model 5" in message and "--without-classifier" in message
    run(source, target, "--without-classifier", *options)
    classifiers = {name for name in tiny.state_dict() if "predictor" in name}
    assert load(target)["model"].keys() == tiny.state_dict().keys() - classifiers
    out = capsys.readouterr().out
    assert all(name in out for name in classifiers) and out.count("\n") == 1


def test_another_architecture(source, tmp_path):
    config = str(Path(CONFIG).parent / "pspnet_R_50c_160k.yaml")
    message = fail(source, tmp_path / "out.pth", "--config-file", config)
    assert str(source) in message
    assert "look like FCN on ResNet, the model is PSPNet on ResNet with a deep stem" in message


def test_an_incomplete_model_is_not_exported(tiny, tmp_path):
    state = dict(tiny.state_dict())
    del state["sem_seg_head.join.weight"]
    path = tmp_path / "ours.pth"
    torch.save({"model": state}, path)
    message = fail(path, tmp_path / "out.pth", "--to-mmseg", "--config-file", CONFIG, *TINY)
    assert "1 missing (decode_head.conv_cat.conv.weight)" in message


def test_what_is_ours_already(tiny, tmp_path):
    path = tmp_path / "ours.pth"
    torch.save({"model": tiny.state_dict()}, path)
    for options in ((), ("--config-file", CONFIG)):
        message = fail(path, tmp_path / "out.pth", *options)
        assert "the names are ours" in message and "--to-mmseg" in message


def test_what_is_no_model_of_ours_is_not_exported(source, tmp_path):
    message = fail(source, tmp_path / "out.pth", "--to-mmseg")
    assert "mmsegmentation has no place for" in message or "no such backbone" in message


# --- backbones ---


def without_prefix(state: dict[str, Tensor]) -> dict:
    return state


def as_of_a_trained_model(state: dict[str, Tensor]) -> dict:
    body = {f"backbone.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    return {"meta": {"epoch": 100}, "state_dict": {**body, "head.fc.bias": state["fc.bias"]}}


@pytest.mark.parametrize("layout", [without_prefix, as_of_a_trained_model])
def test_the_converted_backbone_gives_the_same_features(resnet50c, tmp_path, capsys, layout):
    source, target = tmp_path / "in.pth", tmp_path / "weights" / "out.pth"
    torch.save(layout(v1c_state(resnet50c)), source)
    run(source, target)
    out = capsys.readouterr().out
    assert "330 tensors, a backbone by the names of mmsegmentation" in out
    assert "fc.bias" in out and out.count("\n") == 1

    model = Segmentor("resnet50c").eval()
    Checkpointer(model).load(str(target))
    expected = timm.create_model("resnet50c", num_classes=10, output_stride=8).eval()
    expected.load_state_dict(resnet50c.state_dict())
    image = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = model.backbone(image)
        levels = expected.forward_intermediates(image, intermediates_only=True)
    assert torch.equal(features["res2"], levels[1])
    assert torch.equal(features["res5"], levels[4])


def test_a_resnet101c_is_recognised(tmp_path):
    with torch.device("meta"):
        expected = Segmentor("resnet101c").state_dict()
        state = v1c_state(timm.create_model("resnet101c"))
    own = conversion.resnet_state(state)
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in expected.items()}


def test_step_counters_may_be_absent(resnet50c, tmp_path):
    state = {k: v for k, v in v1c_state(resnet50c).items() if "num_batches" not in k}
    torch.save(state, tmp_path / "in.pth")
    run(tmp_path / "in.pth", tmp_path / "out.pth")
    converted = load(tmp_path / "out.pth")["model"]
    assert converted["backbone.model.bn1.num_batches_tracked"].item() == 0
    assert len(converted) == 330


def test_a_missing_tensor_a_wrong_shape_and_what_is_left_over_are_named(resnet50c, tmp_path):
    state = v1c_state(resnet50c)
    del state["stem.4.running_var"]
    state["layer2.0.conv1.weight"] = torch.zeros(3, 4)
    state["layer1.0.conv9.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "in.pth")
    message = fail(tmp_path / "in.pth", tmp_path / "out.pth")
    assert "1 missing (stem.4.running_var)" in message
    assert "layer2.0.conv1.weight is (3, 4), expected (128, 256, 1, 1)" in message
    assert "1 left over (layer1.0.conv9.weight)" in message


def test_torchvisions_backbone(tmp_path, capsys):
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    source, target = tmp_path / "resnet18-f37072fd.pth", tmp_path / "out.pth"
    torch.save(model.state_dict(), source)
    run(source, target, "--config-file", CONFIG, *TINY)
    assert capsys.readouterr().out.endswith("left out: fc.weight, fc.bias\n")
    assert all(name.startswith("backbone.model.") for name in load(target)["model"])
    backbone = TimmBackbone(name="resnet18", out_features=("res5",)).eval()
    ours = {k.removeprefix("backbone."): v for k, v in load(target)["model"].items()}
    backbone.load_state_dict(ours)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pooled = backbone(image)["res5"].mean(dim=(2, 3))
        torch.testing.assert_close(model.fc(pooled), model(image), rtol=1e-5, atol=1e-5)


def test_a_resnet_with_another_stem_needs_a_config(tmp_path):
    source = tmp_path / "in.pth"
    torch.save(timm.create_model("resnet18").state_dict(), source)
    message = fail(source, tmp_path / "out.pth")
    assert str(source) in message and "its names are conv1.weight, bn1.weight" in message
    assert "--config-file" in message


def test_a_resnet_of_another_depth_needs_a_config(resnet50c, tmp_path):
    state = {k: v for k, v in v1c_state(resnet50c).items() if not k.startswith("layer3.5.")}
    torch.save(state, tmp_path / "in.pth")
    assert "not a ResNet-50 or -101 v1c" in fail(tmp_path / "in.pth", tmp_path / "out.pth")


# --- files ---


def test_a_file_that_was_cut_short(source, tmp_path):
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    assert "damaged" in fail(source, tmp_path / "out.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>not found</html>"])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    source = tmp_path / "in.pth"
    source.write_bytes(content)
    assert "no checkpoint" in fail(source, tmp_path / "out.pth")


@pytest.mark.parametrize("value", [[1, 2], {"state_dict": 3}, {"epoch": 1}, torch.zeros(2)])
def test_a_checkpoint_without_named_tensors(tmp_path, value):
    source = tmp_path / "in.pth"
    torch.save(value, source)
    assert "no tensors by name" in fail(source, tmp_path / "out.pth")


class Harmful:
    """Unpickling it would call a function."""

    def __reduce__(self):
        return (Path.touch, (Path("harm_was_done"),))


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch, is_zip):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "in.pth"
    torch.save({"stem.0.weight": Harmful()}, source, _use_new_zipfile_serialization=is_zip)
    assert "more than tensors and plain values" in fail(source, tmp_path / "out.pth")
    assert not Path("harm_was_done").exists()


@pytest.fixture
def training_log(monkeypatch) -> types.ModuleType:
    """A module of the name of mmengine's, whose class does harm in every way that it can."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __new__(cls, *_):
            Path("harm_was_done").touch()
            return super().__new__(cls)

        def __getstate__(self) -> dict:
            return {"log": self.log}

        def mean(self) -> float:
            return 0.0

        def __setstate__(self, state: dict) -> None:
            Path("harm_was_done").touch()

    HistoryBuffer.__module__ = module.__name__
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    HistoryBuffer.mean.__module__ = module.__name__
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_the_training_log_in_a_checkpoint_is_read_as_nothing(
    training_log, tiny, source, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    buffer = training_log.HistoryBuffer()
    # Arrays, numbers and a function of the class, as mmengine's have them.
    values = torch.arange(3.0).numpy()
    buffer.log = {"values": values, "last": values[2], "mean": training_log.HistoryBuffer.mean}
    content = load(source)
    torch.save({**content, "message_hub": {"loss": buffer}}, source)
    Path("harm_was_done").unlink()
    run(source, tmp_path / "out.pth", "--config-file", CONFIG, *TINY)
    assert_same(load(tmp_path / "out.pth")["model"], tiny.state_dict())
    assert not Path("harm_was_done").exists()
    # What was let pass for one file is not for the next.
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(source)
    assert "mmengine.logging.history_buffer.HistoryBuffer" in unsafe


def test_a_missing_file(tmp_path):
    assert "do not exist" in fail(tmp_path / "absent.pth", tmp_path / "out.pth")


def test_a_file_of_detectron2(tmp_path):
    message = fail(tmp_path / "R-50.pkl", tmp_path / "out.pth")
    assert "needs no conversion" in message and "set MODEL.WEIGHTS to it" in message


def test_a_bad_config(source, tmp_path):
    target = tmp_path / "out.pth"
    assert "does not exist" in fail(source, target, "--config-file", "absent.yaml")
    message = fail(source, target, "--config-file", CONFIG, "MODEL.TIMM.NAME", "resnet51")
    assert "resnet51" in message and str(source) not in message


def test_our_own_checkpoint_with_more_than_tensors(tiny, tmp_path, capsys):
    """Refused where weights are read; the converter takes the rest out, and runs nothing."""
    path, target = tmp_path / "with_options.pth", tmp_path / "tensors.pth"
    extras = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)}
    torch.save({"model": tiny.state_dict(), **extras}, path)
    for name in extras:
        torch.save({"model": tiny.state_dict(), name: extras[name]}, path)
        with raises_naming(ValueError, str(path), "longtail convert-weights"):
            Checkpointer(tiny).load(str(path))
        run(path, target)
        assert_same(load(target)["model"], tiny.state_dict())
        Checkpointer(tiny).load(str(target))
    assert "argparse.Namespace" in capsys.readouterr().out
    # Nothing is left to be taken out.
    assert "the names are ours" in fail(target, tmp_path / "again.pth")
