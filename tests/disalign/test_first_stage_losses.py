# SPDX-License-Identifier: Apache-2.0
"""The second stage of a detector and the loss that its first stage was trained with."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from longtail.engine.training.stages import load_second_stage
from tests.tiny_detection import CASCADE, detector_config, detector_inputs

LOSS = "MODEL.ROI_BOX_HEAD.CLASS_LOSS"
STAGE_2 = ["MODEL.META_ARCHITECTURE", "DisAlignRCNN"]
KINDS = {"mask": [], "cascade": CASCADE}


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_of_the_first_stages_loss_stays_as_it_is(tmp_path, kind):
    options = [*KINDS[kind], LOSS, "seesaw"]
    first = build_model(detector_config(tmp_path, options)).train()
    with EventStorage():
        first(detector_inputs())
    torch.save({"model": first.state_dict()}, tmp_path / "first.pth")
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


@pytest.mark.parametrize("name", ["eqlv2", "federated", "bags"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_without_a_softmax_are_refused(tmp_path, kind, name):
    cfg = detector_config(tmp_path, [*KINDS[kind], *STAGE_2, LOSS, name])
    with pytest.raises(
        ValueError, match=r"DisAlign .* of a softmax.*MODEL\.ROI_BOX_HEAD\.CLASS_LOSS"
    ) as info:
        build_model(cfg)
    assert "\n" not in str(info.value)
