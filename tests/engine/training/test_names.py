# SPDX-License-Identifier: Apache-2.0
"""A name that is not registered ends in one line with near ones."""

import pytest
from detectron2.utils.registry import Registry

from longtail.engine import Trainer
from longtail.utils.names import registered
from tests.messages import raises_naming

REGIONS = ["MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"]


@pytest.mark.parametrize(
    ("overrides", "near"),
    [
        (["MODEL.META_ARCHITECTURE", "SemanticSegmenter"], "SemanticSegmentor"),
        (["MODEL.BACKBONE.NAME", "TimBackbone"], "TimmBackbone"),
        (["MODEL.SEM_SEG_HEAD.NAME", "UperHead"], "UPerHead"),
        ([*REGIONS, "MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHeed"], "FCNHead"),
    ],
)
def test_parts_of_a_model(configure, overrides, near):
    key, name = overrides[-2:]
    with raises_naming(ValueError, key, f"'{name}'", near) as info:
        Trainer.build_model(configure(*overrides))
    assert str(info.value).startswith(key)


def test_what_is_registered_is_found():
    registry = Registry("TEST")
    registry.register(registered)
    assert registered(registry, "registered", "KEY") is registered
    with raises_naming(ValueError, "KEY", "'xyz'", "known: registered"):
        registered(registry, "xyz", "KEY")
