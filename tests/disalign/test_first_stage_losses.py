# SPDX-License-Identifier: Apache-2.0
"""The second stage of a detector and the loss that its first stage was trained with."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from longtail.engine.training.stages import load_second_stage
from tests.tiny_detection import CASCADE, detector_config, detector_inputs

LOSS = "MODEL.ROI_BOX_HEAD.CLASS_LOSS"
ONE_SOFTMAX = ["MODEL.CLASS_LOSS.SEESAW_OBJECTNESS", "False"]
STAGE_2 = ["MODEL.META_ARCHITECTURE", "DisAlignRCNN"]
KINDS = {"mask": [], "cascade": CASCADE}


def first_stage(tmp_path, options) -> torch.nn.Module:
    """A model that was trained for a step; its checkpoint is first.pth."""
    first = build_model(detector_config(tmp_path, options)).train()
    with EventStorage():
        first(detector_inputs())
    torch.save({"model": first.state_dict()}, tmp_path / "first.pth")
    return first


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_of_the_first_stages_loss_stays_as_it_is(tmp_path, kind):
    options = [*KINDS[kind], LOSS, "seesaw", *ONE_SOFTMAX]
    first = first_stage(tmp_path, options)
    counts = {key: value for key, value in first.state_dict().items() if "class_counts" in key}
    assert len(counts) == (3 if kind == "cascade" else 1)
    assert all(value.sum() > 0 for value in counts.values())

    second = build_model(detector_config(tmp_path, [*options, *STAGE_2]))
    load_second_stage(second, str(tmp_path / "first.pth"))
    with EventStorage():
        losses = second(detector_inputs())
    assert all(value > 0 for value in losses.values())
    for key, value in counts.items():
        assert torch.equal(second.state_dict()[key], value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_of_the_first_stages_loss_stops_no_other_loss(tmp_path, kind):
    """The counts of a Seesaw stage, where the second stage names no loss; all else is loaded."""
    first = first_stage(tmp_path, [*KINDS[kind], LOSS, "seesaw", *ONE_SOFTMAX])
    second = build_model(detector_config(tmp_path, [*KINDS[kind], *STAGE_2]))
    load_second_stage(second, str(tmp_path / "first.pth"))
    state = first.state_dict()
    own = {key for key in second.state_dict() if ".calibration." not in key}
    assert own == {key for key in state if "class_loss" not in key}
    assert all(torch.equal(second.state_dict()[key], state[key]) for key in own)
    state["roi_heads.other.class_counts"] = torch.ones(4)
    torch.save({"model": state}, tmp_path / "first.pth")
    with pytest.raises(ValueError, match=r"other\.class_counts is unexpected"):
        load_second_stage(second, str(tmp_path / "first.pth"))


@pytest.mark.parametrize("named", [True, False])
def test_a_first_stage_with_objectness_is_refused(tmp_path, named):
    """By its loss where the second stage names it, otherwise by the outputs of its classifier."""
    first_stage(tmp_path, [LOSS, "seesaw"])
    cfg = detector_config(tmp_path, [*STAGE_2, *([LOSS, "seesaw"] if named else [])])
    message = r"SEESAW_OBJECTNESS False$" if named else r"cls_score\.bias has shape \(5,\)"
    with pytest.raises(ValueError, match=message) as info:
        load_second_stage(build_model(cfg), str(tmp_path / "first.pth"))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["eqlv2", "federated", "bags", "focal", "seesaw"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_without_a_softmax_are_refused(tmp_path, kind, name):
    cfg = detector_config(tmp_path, [*KINDS[kind], *STAGE_2, LOSS, name])
    with pytest.raises(
        ValueError, match=r"DisAlign .* of a softmax.*MODEL\.ROI_BOX_HEAD\.CLASS_LOSS"
    ) as info:
        build_model(cfg)
    assert "\n" not in str(info.value)
