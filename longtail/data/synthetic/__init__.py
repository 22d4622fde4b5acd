# SPDX-License-Identifier: Apache-2.0
"""Generated long-tailed data that needs no download: scenes, and images of one object each.

Background ("stuff") classes fill the canvas, object ("thing") classes are a shape with a texture,
and colours are drawn anew for every object, so that a model has to look at texture and shape.
"""

from longtail.data.synthetic.classification import (
    ClassificationConfig,
    write_classification_dataset,
)
from longtail.data.synthetic.config import SyntheticConfig
from longtail.data.synthetic.digit_scenes import DigitScenesConfig, write_digit_scenes
from longtail.data.synthetic.hued import HuedConfig, plan_hued_split
from longtail.data.synthetic.lvis import LVIS_CONFIG, write_lvis_dataset
from longtail.data.synthetic.plan import plan_split, scene_generator
from longtail.data.synthetic.scene import IGNORE_LABEL, Instance, Scene, generate_scene
from longtail.data.synthetic.write import write_dataset

__all__ = [
    "IGNORE_LABEL",
    "LVIS_CONFIG",
    "ClassificationConfig",
    "DigitScenesConfig",
    "HuedConfig",
    "Instance",
    "Scene",
    "SyntheticConfig",
    "generate_scene",
    "plan_hued_split",
    "plan_split",
    "scene_generator",
    "write_classification_dataset",
    "write_dataset",
    "write_digit_scenes",
    "write_lvis_dataset",
]
