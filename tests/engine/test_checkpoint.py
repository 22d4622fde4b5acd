# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are whole or absent, and reading one never runs code."""

import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from longtail.engine.checkpoint import Checkpointer, CompleteCheckpointer
from longtail.engine.training.stages import SecondStageCheckpointer
from tests.messages import assert_names, raises_naming

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)


def make_model():
    return nn.Linear(2, 3)


def zero_model():
    model = make_model()
    nn.init.zeros_(model.weight)
    return model


def load(path, model=None):
    return Checkpointer(model or make_model(), str(path.parent)).load(str(path))


@pytest.fixture
def saved(tmp_path):
    model = make_model()
    Checkpointer(model, str(tmp_path)).save("model_0000001", iteration=1)
    return model, tmp_path / "model_0000001.pth"


class Counter:
    """Something to be saved beside the model."""

    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value, "tensor": torch.ones(2)}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_round_trip(tmp_path):
    model, counter = make_model(), Counter(7)
    Checkpointer(model, str(tmp_path), counter=counter).save("last", iteration=3, note="x")
    other, read = zero_model(), Counter(0)
    checkpointer = Checkpointer(other, str(tmp_path), counter=read)
    extra = checkpointer.resume_or_load("", resume=True)
    assert torch.equal(other.weight, model.weight)
    assert (read.value, extra["iteration"], extra["note"]) == (7, 3, "x")


@pytest.mark.parametrize(
    ("layer", "facts"),
    [(nn.Linear(2, 4), ["(3, 2)", "(4, 2)"]), (nn.PReLU(3), ["(3, 2)", "(3,)"])],
    ids=["wider", "another"],
)
def test_only_the_same_model_is_resumed(saved, layer, facts):
    model = nn.Sequential()
    model.add_module("first", make_model())
    model.add_module("second", make_model())
    Checkpointer(model, str(saved[1].parent)).save("model_0000002", iteration=2)
    other = nn.Sequential()
    other.add_module("first", make_model())
    other.add_module("second", layer)
    resumed = Checkpointer(other, str(saved[1].parent))
    with raises_naming(ValueError, "--resume", "model_0000002.pth", "second.weight", *facts):
        resumed.resume_or_load("", resume=True)
    # Weights to start from may lack a head.
    Checkpointer(other).load(str(saved[1].parent / "model_0000002.pth"))


def test_weights_at_an_address_of_an_unknown_kind():
    with raises_naming(FileNotFoundError, "s4://bucket/a.pth"):
        Checkpointer(make_model()).load("s4://bucket/a.pth")


def test_weights_alone_without_resume(tmp_path):
    model = make_model()
    Checkpointer(model, str(tmp_path), counter=Counter(7)).save("last")
    other, read = zero_model(), Counter(0)
    checkpointer = Checkpointer(other, str(tmp_path), counter=read)
    checkpointer.resume_or_load(str(tmp_path / "last.pth"), resume=False)
    assert torch.equal(other.weight, model.weight)
    assert read.value == 0


def test_no_weights_are_fine(tmp_path):
    assert Checkpointer(make_model(), str(tmp_path)).resume_or_load("", resume=True) == {}


@pytest.mark.parametrize("name", ["model_0000001", "model_0000002"])
def test_an_interrupted_save_leaves_the_earlier_checkpoint(saved, monkeypatch, name):
    _, path = saved
    before = path.read_bytes()

    def half_write(data, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half_write)
    checkpointer = Checkpointer(zero_model(), str(path.parent))
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save(name)
    assert path.read_bytes() == before
    assert checkpointer.get_checkpoint_file() == str(path)
    assert sorted(os.listdir(path.parent)) == ["last_checkpoint", "model_0000001.pth"]


def test_an_interrupted_tag_leaves_the_earlier_tag(saved, monkeypatch):
    _, path = saved
    checkpointer = Checkpointer(make_model(), str(path.parent))
    with monkeypatch.context() as patch:

        def fail(*_):
            raise OSError("disk full")

        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            checkpointer.tag_last_checkpoint("model_0000002.pth")
    assert checkpointer.get_checkpoint_file() == str(path)


def test_only_the_main_process_writes(tmp_path):
    Checkpointer(make_model(), str(tmp_path), save_to_disk=False).save("last")
    Checkpointer(make_model(), "").save("last")
    assert os.listdir(tmp_path) == []


def test_a_missing_file(tmp_path):
    path = tmp_path / "nowhere.pth"
    with raises_naming(FileNotFoundError, str(path), "MODEL.WEIGHTS"):
        load(path)


@pytest.mark.parametrize(("path", "processes"), [("https://host/a.pth", 1), ("absent.pth", 2)])
def test_what_may_be_elsewhere_is_not_looked_for(monkeypatch, path, processes):
    """detectron2 fetches an address, and reads a file on the main process's machine alone."""
    seen = []
    monkeypatch.setattr(DetectionCheckpointer, "load", lambda self, path: seen.append(path))
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: processes)
    Checkpointer(make_model()).load(path)
    assert seen == [path]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file(tmp_path, zipped, share):
    path = tmp_path / "cut.pth"
    state = {"model": make_model().state_dict()}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with raises_naming(ValueError, str(path), "no checkpoint"):
        load(path)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_random_bytes(tmp_path, suffix):
    path = tmp_path / f"noise.{suffix}"
    for seed in range(30):
        path.write_bytes(np.random.default_rng(seed).bytes(200))
        with raises_naming(ValueError, str(path)) as info:
            load(path)
        # Noise may begin like a pickle that names a function.
        assert any(words in str(info.value) for words in ("no checkpoint", "could run code"))


def touch(path):
    path.write_text("run")


class Malicious:
    """What runs when it is unpickled by a trusting reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return touch, (self.path,)


@pytest.mark.parametrize("value", [Malicious, lambda _: os.system], ids=["call", "function"])
@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_file_with_code(tmp_path, suffix, value):
    path, mark = tmp_path / f"bad.{suffix}", tmp_path / "mark"
    content = {"model": {"weight": WEIGHT}, "extra": value(mark), "__author__": "x"}
    if suffix == "pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with raises_naming(ValueError, str(path), "could run code"):
        load(path)
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_detectron2_model_zoo_file(tmp_path, protocol):
    path = tmp_path / "zoo.pkl"
    content = {
        "model": {"weight": WEIGHT, "bias": np.zeros(3, dtype=np.float32)},
        "__author__": "someone",
        "scale": np.float32(2),
    }
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    model = make_model()
    extra = load(path, model)
    assert np.array_equal(model.weight.detach().numpy(), WEIGHT)
    assert extra["__author__"] == "someone"


@pytest.mark.parametrize("nested", [True, False])
def test_a_caffe2_file(tmp_path, nested):
    path = tmp_path / "caffe2.pkl"
    blobs = {"weight": WEIGHT, "weight_momentum": WEIGHT, "bias": np.ones(3, dtype=np.float32)}
    path.write_bytes(pickle.dumps({"blobs": blobs} if nested else blobs))
    model = make_model()
    checkpointer = CompleteCheckpointer(model)
    checkpointer.load(str(path))
    assert np.array_equal(model.weight.detach().numpy(), WEIGHT)
    # The solver's momentum is no tensor of the model.
    assert list(checkpointer.unused) == []


def test_a_file_that_python_2_wrote(tmp_path):
    """As some of detectron2's model zoo: text and the bytes of arrays are strings of bytes."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03K\x02\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\nU\x18"
    )
    weight = np.full((3, 2), -1.7, dtype=np.float32)
    content = b"\x80\x02}(U\x05model}U\x06weight" + array + weight.tobytes() + b"tbs"
    path = tmp_path / "python2.pkl"
    path.write_bytes(content + b"U\x0a__author__U\x04Caf\xe9u.")
    model = make_model()
    assert load(path, model)["__author__"] == "Caf\u00e9"
    assert np.array_equal(model.weight.detach().numpy(), weight)


def test_a_truncated_model_zoo_file(tmp_path):
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": {"weight": WEIGHT}, "__author__": "x"})[:-20])
    with raises_naming(ValueError, str(path), "damaged"):
        load(path)


def test_bare_tensors_by_name(tmp_path):
    path = tmp_path / "bare.pth"
    source, model = make_model(), zero_model()
    torch.save(source.state_dict(), path)
    load(path, model)
    assert torch.equal(model.weight, source.weight)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_something_that_is_no_dictionary(tmp_path, suffix):
    path = tmp_path / f"list.{suffix}"
    if suffix == "pth":
        torch.save(torch.zeros(3), path)
    else:
        path.write_bytes(pickle.dumps([1, 2]))
    with raises_naming(ValueError, str(path), {"pth": "Tensor", "pkl": "list"}[suffix]):
        load(path)


def model_of_parts():
    return nn.ModuleDict({"backbone": nn.Linear(2, 3), "norm": nn.BatchNorm1d(2)})


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_checkpoint_of_another_architecture(tmp_path, suffix):
    path = tmp_path / f"other.{suffix}"
    if suffix == "pth":
        torch.save({"decode_head.weight": torch.zeros(3, 2)}, path)
    else:
        state = {"decode_head.weight": WEIGHT}
        path.write_bytes(pickle.dumps({"model": state, "__author__": "x"}))
    names = ("backbone.weight", "decode_head.weight")
    with raises_naming(ValueError, str(path), *names, "MODEL.WEIGHTS") as info:
        load(path, model_of_parts())
    assert "longtail convert-weights" in str(info.value)


def test_tensors_of_other_shapes_are_another_architecture(tmp_path):
    path = tmp_path / "wide.pth"
    torch.save(nn.Linear(5, 7).state_dict(), path)
    with raises_naming(ValueError, str(path), "weight", "0 of 2", "MODEL.WEIGHTS"):
        load(path)
    torch.save({}, path)
    with raises_naming(ValueError, str(path), "weight", "0 of 2", "none"):
        load(path)


def test_inference_says_which_shape_is_wrong(tmp_path):
    path = tmp_path / "classes.pth"
    torch.save(nn.Linear(2, 19).state_dict(), path)
    with raises_naming(ValueError, "2", "weight", "(19, 2)", "(3, 2)"):
        CompleteCheckpointer(nn.Linear(2, 3)).load(str(path))


def test_another_backbone_is_another_architecture_whatever_else_fits(tmp_path):
    """Heads that agree would let the training start from a random backbone."""
    path = tmp_path / "other_backbone.pth"
    state = {**model_of_parts().state_dict(), "backbone.weight": torch.zeros(7, 7)}
    state["backbone.bias"] = torch.zeros(7)
    torch.save(state, path)
    with raises_naming(ValueError, str(path), "backbone.weight", "0 of 2", "MODEL.WEIGHTS"):
        load(path, model_of_parts())
    # Half of a backbone is enough, less is not: here of two layers, of which one has its tensors.
    model = nn.ModuleDict({"backbone": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))})
    half = {name: t for name, t in model.state_dict().items() if ".0." in name}
    torch.save(half, path)
    load(path, model)
    torch.save({"backbone.0.bias": half["backbone.0.bias"]}, path)
    with raises_naming(ValueError, str(path), "backbone.0.weight", "1 of 4"):
        load(path, model)
    # The other way round a new head is common.
    state = {"backbone." + k: v for k, v in nn.Linear(2, 3).state_dict().items()}
    torch.save({**state, "norm.weight": torch.zeros(7)}, path)
    load(path, model_of_parts())


def test_a_part_of_the_model_is_enough_to_start_from(tmp_path):
    """ImageNet weights of a backbone; or a file whose names are matched by their ends."""
    source = model_of_parts()
    part = {k: v for k, v in source.state_dict().items() if k.startswith("backbone.")}
    torch.save(part, tmp_path / "backbone.pth")
    blobs = {"weight": WEIGHT, "bias": np.ones(3, dtype=np.float32)}
    (tmp_path / "caffe2.pkl").write_bytes(pickle.dumps(blobs))
    for name, weight in (("backbone.pth", part["backbone.weight"]), ("caffe2.pkl", WEIGHT)):
        model = model_of_parts()
        load(tmp_path / name, model)
        assert torch.equal(model["backbone"].weight, torch.as_tensor(weight))


class TestClassNames:
    """Weights carry the names of their classes, and those of other classes are refused."""

    @pytest.fixture
    def named(self, tmp_path):
        checkpointer = Checkpointer(make_model(), str(tmp_path / "run"))
        os.makedirs(checkpointer.save_dir)
        checkpointer.class_names = ["cup", "bolt", "leaf"]
        checkpointer.save("model_0000001", iteration=1)
        checkpointer.save_weights("model_best")
        return tmp_path / "run"

    def load(self, path, names, kind=Checkpointer):
        checkpointer = kind(make_model(), str(path.parent))
        checkpointer.class_names = names
        return checkpointer.load(str(path))

    def test_they_are_in_every_file(self, named):
        for name in ("model_0000001", "model_best"):
            loaded = self.load(named / f"{name}.pth", ["cup", "bolt", "leaf"])
            assert loaded["class_names"] == ["cup", "bolt", "leaf"]

    def test_a_checkpoint_without_names_is_silent(self, saved, caplog):
        assert "class_names" not in self.load(saved[1], ["x", "y", "z"])
        assert not [r for r in caplog.records if "class" in r.getMessage()]

    def test_a_first_stage_may_start_from_other_classes(self, named, caplog):
        self.load(named / "model_best.pth", ["cup", "nut", "leaf"])
        (message,) = (r.getMessage() for r in caplog.records if "class" in r.getMessage())
        assert_names(message, "model_best.pth", "class 1", "'bolt'", "'nut'")

    @pytest.mark.parametrize(
        ("names", "facts"),
        [
            (["cup", "nut", "leaf"], ["class 1", "'bolt'", "'nut'"]),
            (["bolt", "cup", "leaf"], ["class 0", "'cup'", "'bolt'", "another order"]),
            (["cup", "bolt"], ["3 classes", "2"]),
        ],
    )
    def test_what_continues_must_be_the_same(self, named, names, facts):
        checkpointer = Checkpointer(make_model(), str(named))
        checkpointer.class_names = names
        before = checkpointer.model.weight.clone()
        with raises_naming(ValueError, "model_0000001.pth", *facts):
            checkpointer.resume_or_load("", resume=True)
        assert torch.equal(checkpointer.model.weight, before)

        class Second(Checkpointer):
            same_classes = SecondStageCheckpointer.same_classes

        with raises_naming(ValueError, "model_best.pth", *facts):
            self.load(named / "model_best.pth", names, Second)
