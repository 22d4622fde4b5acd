# SPDX-License-Identifier: Apache-2.0
"""Mappers: from a data set's record to a model's input."""

from longtail.data.mappers.augmentation import (
    PadToSize,
    RandomScaleResize,
    build_sem_seg_augmentation,
)
from longtail.data.mappers.classification import ClassificationDatasetMapper, build_transform
from longtail.data.mappers.copy_paste import with_copy_paste
from longtail.data.mappers.instances import InstanceDatasetMapper
from longtail.data.mappers.registry import MAPPER_REGISTRY
from longtail.data.mappers.sem_seg import SemSegDatasetMapper

__all__ = [
    "MAPPER_REGISTRY",
    "ClassificationDatasetMapper",
    "InstanceDatasetMapper",
    "PadToSize",
    "RandomScaleResize",
    "SemSegDatasetMapper",
    "build_sem_seg_augmentation",
    "build_transform",
    "with_copy_paste",
]
