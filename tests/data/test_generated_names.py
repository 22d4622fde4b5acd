# SPDX-License-Identifier: Apache-2.0
"""Classes of generated data: known before they are drawn, and by the names of what is drawn."""

from longtail.data.formats import generated
from longtail.data.synthetic import (
    LVIS_CONFIG,
    ClassificationConfig,
    HuedConfig,
    SyntheticConfig,
)
from longtail.data.synthetic.lvis import category_names
from longtail.data.synthetic.shapes import SHAPES
from longtail.data.synthetic.textures import STUFF_TEXTURES, THING_TEXTURES


def test_whatever_has_a_name_can_be_drawn():
    assert list(SHAPES) == list(generated.SHAPES)
    assert list(STUFF_TEXTURES) == list(generated.STUFF)
    assert list(THING_TEXTURES) == list(generated.TEXTURES)
    assert set(generated.LT_SHAPES) < set(generated.SHAPES)


def test_the_first_classes():
    """Of 24 classes 5 are stuff; objects take the next shape and, a lap later, another texture."""
    names = generated.scene_classes(24)
    assert names[:8] == [
        *("brick", "water", "grass", "gravel", "cloud"),
        *("disk-striped", "pole-checked", "ring-zigzag"),
    ]
    # The ninth object: the first shape again, with the texture three places on.
    assert names[5 + 8] == "disk-meshed" and names[-1] == "ring-striped"
    assert len(set(names)) == 24
    assert generated.object_classes(7, generated.LT_SHAPES) == [
        *("disk-striped", "ring-checked", "box-zigzag", "star-meshed", "crescent-marbled"),
        *("pebble-plain", "disk-meshed"),
    ]


def test_every_pair_of_shape_and_texture_occurs_once():
    for shapes in (generated.SHAPES, generated.LT_SHAPES):
        assert len(set(generated.object_classes(8 * len(shapes), shapes))) == 8 * len(shapes)


def test_classes_with_a_hue():
    """64 pairs, then the same ones with the next of 7 hues; the 64th has hue 63 mod 7 = 0."""
    names = generated.hued_classes(448)
    assert len(set(names)) == 448
    assert names[:3] == ["red-disk-striped", "amber-pole-checked", "lime-ring-zigzag"]
    assert names[63].startswith("red-") and names[64] == "amber-disk-striped"
    assert {name.partition("-")[2] for name in names[64:128]} == set(generated.object_classes(64))


def test_data_sets_have_these_classes_by_default():
    assert SyntheticConfig().class_names == generated.scene_classes(24)
    assert ClassificationConfig().class_names == generated.object_classes(24, generated.LT_SHAPES)
    # 68 classes of scenes, of which 8 are stuff.
    assert category_names(LVIS_CONFIG) == generated.object_classes(60)
    assert category_names(HuedConfig()) == generated.hued_classes(400)
