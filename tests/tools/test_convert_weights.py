"""tools/convert_weights.py on random weights under open-mmlab's names."""

from collections import OrderedDict
from pathlib import Path

import convert_weights
import pytest
import timm
import torch
from torch import Tensor, nn

from longtail.engine.checkpoint import Checkpointer
from longtail.modeling.backbone import TimmBackbone

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
    """What every model of the project calls its backbone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = TimmBackbone(name=name, output_stride=8, out_features=("res2", "res5"))


@pytest.fixture(scope="module")
def resnet50c() -> nn.Module:
    return random_model("resnet50c")


@pytest.fixture
def source(resnet50c: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "resnet50_v1c.pth"
    torch.save(v1c_state(resnet50c), path)
    return path


def fail(source: Path, target: Path) -> str:
    """The message of a conversion that has to fail, and to leave no file behind."""
    with pytest.raises(SystemExit) as caught:
        convert_weights.main([str(source), str(target)])
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    assert not list(target.parent.glob(f"*{target.name}*"))
    return message


def without_prefix(state: dict[str, Tensor]) -> dict:
    return state


def as_of_a_trained_model(state: dict[str, Tensor]) -> dict:
    body = {f"backbone.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    return {"meta": {"epoch": 100}, "state_dict": {**body, "head.fc.bias": state["fc.bias"]}}


@pytest.mark.parametrize("layout", [without_prefix, as_of_a_trained_model])
def test_the_converted_backbone_gives_the_same_features(resnet50c, tmp_path, capsys, layout):
    source, target = tmp_path / "in.pth", tmp_path / "weights" / "out.pth"
    torch.save(layout(v1c_state(resnet50c)), source)
    convert_weights.main([str(source), str(target)])
    out = capsys.readouterr().out
    assert "resnet50c, 330 tensors" in out and "fc.bias" in out and out.count("\n") == 1

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


def test_a_resnet101c_is_recognised():
    name, converted, left_over = convert_weights.convert(v1c_state(random_model("resnet101c")))
    assert name == "resnet101c"
    expected = Segmentor("resnet101c").state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in expected.items()}
    assert left_over == ["fc.weight", "fc.bias"]


def test_step_counters_may_be_absent(resnet50c):
    state = {k: v for k, v in v1c_state(resnet50c).items() if "num_batches" not in k}
    _, converted, _ = convert_weights.convert(state)
    assert converted["backbone.model.bn1.num_batches_tracked"].item() == 0
    assert len(converted) == 330


def test_a_missing_tensor_a_wrong_shape_and_what_is_left_over_are_named(resnet50c):
    state = v1c_state(resnet50c)
    del state["stem.4.running_var"]
    state["layer2.0.conv1.weight"] = torch.zeros(3, 4)
    state["layer1.0.conv9.weight"] = torch.zeros(1)
    with pytest.raises(ValueError) as caught:
        convert_weights.convert(state)
    message = str(caught.value)
    assert "1 missing (conv1.4.running_var)" in message
    assert "layer2.0.conv1.weight is (3, 4), expected (128, 256, 1, 1)" in message
    assert "3 left over (fc.weight, fc.bias, layer1.0.conv9.weight)" in message


def test_a_resnet_with_another_stem_is_refused(tmp_path):
    source = tmp_path / "in.pth"
    torch.save(timm.create_model("resnet50").state_dict(), source)
    message = fail(source, tmp_path / "out.pth")
    assert str(source) in message and "there is no stem.0.weight" in message


def test_a_resnet_of_another_depth_is_refused(resnet50c):
    state = {k: v for k, v in v1c_state(resnet50c).items() if not k.startswith("layer3.5.")}
    with pytest.raises(ValueError, match="layer3 has 5 blocks, expected 6 or 23"):
        convert_weights.convert(state)


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


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "in.pth"
    torch.save({"stem.0.weight": Harmful()}, source)
    assert "more than tensors and plain values" in fail(source, tmp_path / "out.pth")
    assert not Path("harm_was_done").exists()


def test_a_missing_file(tmp_path):
    assert "do not exist" in fail(tmp_path / "absent.pth", tmp_path / "out.pth")
