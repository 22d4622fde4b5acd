# SPDX-License-Identifier: Apache-2.0
"""Freezing, the report and the audit of second stages, on small models of our own."""

import pytest
import torch
from torch import nn

from longtail.engine.checkpoint import Checkpointer
from longtail.engine.training.stages import (
    SecondStageCheckpointer,
    evaluate_frozen_modules,
    freeze,
    is_second_stage,
    trained_modules,
    trained_parameters_report,
)
from tests.messages import raises_naming


def block(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Dropout(0.5))


class Head(nn.Module):
    """A frozen classifier beside a trained part with a batch normalisation of its own."""

    def __init__(self, classes: int = 3, extra: bool = True) -> None:
        super().__init__()
        self.classifier = nn.Linear(4, classes)
        if extra:
            self.adapter = nn.Sequential(nn.Linear(classes, classes), nn.BatchNorm1d(classes))

    def forward(self, x):
        x = self.classifier(x)
        return self.adapter(x) if hasattr(self, "adapter") else x


class FirstStage(nn.Module):
    def __init__(self, classes: int = 3, heads: int = 2, extra: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Sequential(block(), block())
        self.heads = nn.ModuleList(Head(classes, extra) for _ in range(heads))
        # Names that only begin or end alike.
        self.adapters, self.no_adapter = nn.Linear(1, 1), nn.Linear(1, 1)
        self.modes = []

    def forward(self, x):
        self.modes.append({name for name, module in self.named_modules() if module.training})
        x = self.backbone(x)
        return sum(head(x) for head in self.heads)


class SecondStage(FirstStage):
    trained_module_names = ("adapter",)

    def __init__(self, **options) -> None:
        super().__init__(extra=True, **options)


TRAINED = ["heads.0.adapter", "heads.1.adapter"]


def inputs() -> torch.Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_which_models_are_second_stages():
    assert is_second_stage(SecondStage())
    assert not is_second_stage(FirstStage()) and not is_second_stage(nn.Linear(2, 2))
    assert list(trained_modules(SecondStage())) == TRAINED
    none = FirstStage()
    none.trained_module_names = ("adapter", "calibration")
    with raises_naming(ValueError, "FirstStage", "adapter, calibration"):
        trained_modules(none)


def test_a_semantic_head_can_say_it_for_its_model():
    model = nn.ModuleDict({"backbone": block(), "sem_seg_head": Head()})
    assert not is_second_stage(model)
    model["sem_seg_head"].trained_module_names = ("adapter",)
    assert is_second_stage(model)
    assert list(trained_modules(model)) == ["sem_seg_head.adapter"]
    freeze(model)
    learned = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(learned) == 4 and all(".adapter." in name for name in learned)
    model["sem_seg_head"].trained_module_names = ("calibration",)
    with raises_naming(ValueError, "Head", "calibration"):
        trained_modules(model)


def test_only_what_is_named_is_trained():
    model = SecondStage()
    model.heads[0].adapter[0].weight.requires_grad_(False)  # whatever it was before
    freeze(model)
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    parts = ("0.weight", "0.bias", "1.weight", "1.bias")
    assert learned == {f"{name}.{part}" for name in TRAINED for part in parts}


def test_frozen_modules_evaluate_whatever_mode_is_set():
    model = SecondStage()
    freeze(model)
    inside = {name for name in dict(model.named_modules()) if ".adapter" in name}
    around = {"", "heads", "heads.0", "heads.1"}
    model.train()
    model(inputs())
    assert model.modes[-1] == inside | around
    model.eval()
    model(inputs())
    assert model.modes[-1] == set()
    # A trained module that was switched by hand stays as it is.
    model.train()
    model.heads[1].adapter.eval()
    model(inputs())
    assert model.modes[-1] == {n for n in inside | around if not n.startswith(TRAINED[1])}


def test_no_frozen_tensor_moves_in_training():
    torch.manual_seed(0)
    model = SecondStage()
    freeze(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    before = tensors(model)
    for _ in range(3):
        model.train()
        optimizer.zero_grad()
        model(inputs()).square().sum().backward()
        optimizer.step()
        model.eval()
        model(inputs())
    changed = {
        name for name, value in tensors(model).items() if not torch.equal(value, before[name])
    }
    # Of what is trained all moves, its batch statistics too.
    assert changed == {name for name in before if ".adapter." in name}


def test_without_freezing_they_move():
    model = FirstStage().train()
    before = tensors(model)
    model(inputs())
    assert any(not torch.equal(value, before[name]) for name, value in tensors(model).items())


def test_modes_can_be_set_without_a_forward():
    model = SecondStage().train()
    evaluate_frozen_modules(model)
    assert not any(m.training for m in model.backbone.modules())
    assert model.training and model.heads[0].adapter[1].training


def test_the_report_lists_every_trained_tensor_and_all_counts():
    model = SecondStage()
    freeze(model)
    first, *lines = trained_parameters_report(model).splitlines()
    learned = 2 * (3 * 3 + 3 + 3 + 3)
    frozen = 2 * (4 * 4 + 4 + 4 + 4) + 2 * (4 * 3 + 3) + 2 * 2
    assert first == f"second stage: {learned} parameters are trained, {frozen} are frozen"
    rows = {line.split("  ")[0]: line.split() for line in lines[2:]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rows.pop(name)[-1] == str(parameter.numel())
    counts = {"backbone.0": 28, "backbone.1": 28, "heads.0": 15, "heads.1": 15}
    counts |= {f"{m}.{t}": 1 for m in ("adapters", "no_adapter") for t in ("weight", "bias")}
    assert {name: int(row[-1]) for name, row in rows.items()} == {
        f"{name}.*" if f"{name}.*" in rows else name: count for name, count in counts.items()
    }
    assert sum(int(row[-1]) for row in rows.values()) == frozen


def save(model: nn.Module, folder, change=lambda state: None) -> str:
    state = model.state_dict()
    change(state)
    path = folder / "weights.pth"
    torch.save({"model": state}, path)
    return str(path)


def audit(path: str, model: nn.Module | None = None) -> nn.Module:
    model = SecondStage() if model is None else model
    SecondStageCheckpointer(model).load(path)
    return model


def failure(path: str) -> str:
    with raises_naming(ValueError, "first stage:", "MODEL.WEIGHTS") as info:
        audit(path)
    return str(info.value)


def test_the_first_stages_weights_are_loaded(tmp_path):
    torch.manual_seed(1)
    first, start = FirstStage(), tensors(model := SecondStage())
    audit(save(first, tmp_path), model)
    for name, value in model.state_dict().items():
        expected = start[name] if ".adapter." in name else first.state_dict()[name]
        assert torch.equal(value, expected), name


def test_a_second_stages_weights_are_loaded(tmp_path):
    torch.manual_seed(1)
    source = SecondStage()
    loaded = audit(save(source, tmp_path))
    assert all(torch.equal(v, loaded.state_dict()[n]) for n, v in source.state_dict().items())


def test_no_weights_are_an_error(tmp_path):
    for resume in (False, True):
        checkpointer = SecondStageCheckpointer(SecondStage(), str(tmp_path))
        with raises_naming(ValueError, "MODEL.WEIGHTS", "first stage"):
            checkpointer.resume_or_load("", resume=resume)
    with raises_naming(FileNotFoundError, str(tmp_path / "nowhere.pth"), "MODEL.WEIGHTS"):
        audit(str(tmp_path / "nowhere.pth"))


def test_its_own_checkpoint_resumes_without_other_weights(tmp_path):
    source = SecondStage()
    Checkpointer(source, str(tmp_path)).save("model_0000001", iteration=1)
    model = SecondStage()
    checkpointer = SecondStageCheckpointer(model, str(tmp_path))
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in source.state_dict().items())


FROZEN = ["backbone.1.0.weight", "heads.0.classifier.bias", "backbone.0.1.running_mean"]


@pytest.mark.parametrize("name", FROZEN)
@pytest.mark.parametrize("stage", [FirstStage, SecondStage])
def test_a_missing_tensor_is_named_and_only_it(tmp_path, name, stage):
    message = failure(save(stage(), tmp_path, lambda state: state.pop(name)))
    assert f": {name} is missing. " in message
    # What may be missing is no part of the complaint.
    assert message.count("is missing") == 1 and "adapter" not in message


@pytest.mark.parametrize("stage", [FirstStage, SecondStage])
def test_an_unexpected_tensor_is_named(tmp_path, stage):
    path = save(stage(), tmp_path, lambda state: state.update(other=torch.zeros(1)))
    assert ": other is unexpected. " in failure(path)


def test_a_second_stage_can_say_what_an_unexpected_tensor_means(tmp_path):
    path = save(FirstStage(), tmp_path, lambda state: state.update(branch=torch.zeros(1)))
    model = SecondStage()
    model.remedies = {"nothing": "No.", "branch": "Train without a branch"}
    with raises_naming(ValueError, "branch", "unexpected", "Train without a branch") as info:
        audit(path, model)
    assert "MODEL.WEIGHTS" not in str(info.value) and "No." not in str(info.value)
    model.remedies = {"classifier": "It is the model's own"}
    with raises_naming(ValueError, "branch", "unexpected", "MODEL.WEIGHTS") as info:
        audit(path, model)
    assert "It is the model's own" not in str(info.value)


def test_a_weight_of_another_class_count_is_named_with_both_shapes(tmp_path):
    message = failure(save(FirstStage(classes=5), tmp_path))
    for head in (0, 1):
        assert f"heads.{head}.classifier.weight has shape (5, 4), the model (3, 4)" in message
        assert f"heads.{head}.classifier.bias has shape (5,), the model (3,)" in message
    assert "missing" not in message


def test_a_part_of_what_is_trained_is_an_error(tmp_path):
    def drop(state):
        del state["heads.0.adapter.0.weight"], state["heads.1.adapter.1.running_var"]

    message = failure(save(SecondStage(), tmp_path, drop))
    assert (
        "heads.0.adapter.0.weight is missing; heads.1.adapter.1.running_var is missing" in message
    )
    assert message.count("is missing") == 2


def test_trained_tensors_of_another_shape_are_an_error(tmp_path):
    def cut(state):
        state["heads.0.adapter.0.weight"] = torch.zeros(2, 2)

    message = failure(save(SecondStage(), tmp_path, cut))
    assert "heads.0.adapter.0.weight has shape (2, 2), the model (3, 3)" in message


def test_several_kinds_of_problems_and_their_number(tmp_path):
    def change(state):
        for name in list(state):
            if name.startswith("backbone.0."):
                del state[name]
        state["zebra"] = torch.zeros(1)
        state["heads.1.classifier.bias"] = torch.zeros(9)

    message = failure(save(FirstStage(), tmp_path, change))
    dropped = sum(name.startswith("backbone.0.") for name in FirstStage().state_dict())
    # Of all problems five are spelled out.
    assert f"; and {dropped + 2 - 5} more. Set MODEL.WEIGHTS" in message
    assert "heads.1.classifier.bias has shape (9,)" in message
    assert message.count(";") == 5


def test_a_checkpoint_of_something_else(tmp_path):
    assert "is missing" in failure(save(nn.Linear(2, 2), tmp_path))


def test_a_second_stage_does_not_resume_a_first(tmp_path):
    Checkpointer(FirstStage(), str(tmp_path)).save("model_final")
    with raises_naming(ValueError, str(tmp_path), "first stage", "OUTPUT_DIR"):
        SecondStageCheckpointer(SecondStage(), str(tmp_path)).resume_or_load("", resume=True)


def test_tensors_that_old_checkpoints_have_are_no_surprise(tmp_path):
    def add(state):
        state.update(pixel_mean=torch.zeros(3), pixel_std=torch.ones(3))

    SecondStageCheckpointer(SecondStage()).load(save(FirstStage(), tmp_path, add))
