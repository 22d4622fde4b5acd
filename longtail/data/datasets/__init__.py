# SPDX-License-Identifier: Apache-2.0
"""Registration of the data sets under ``DETECTRON2_DATASETS``, on import as detectron2 does it.

Registered here: ``coco_stuff_164k_sem_seg_{train,val}``, ``coco_stuff_10k_sem_seg_{train,test}``,
``camvid_sem_seg_{train,val,test}``, in LVIS's format ``lvis_synthetic_{train,val}``,
``lvis_camvid_{train,val}`` and ``iotkits_lt_{train,val,fit,held_out}``, and for image
classification ``imagenet_lt_{train,val,test}`` (and ``imagenet_full_train``),
``places_lt_{train,val,test}``, ``inaturalist2018_{train,val}``,
``digits_lt_{train,val,test,balanced}`` and ``synthetic_lt_{train,val,test,balanced}``, where
``balanced`` has as many images of every class as ``train`` has of the most frequent, and
``cifar100_lt_{if10,if50,if100,if200}_{train,balanced}``, ``cifar100_lt_test`` (also ``cifar10``).

``digit_scenes_sem_seg_{train,val,test}`` are scenes of handwritten digits.
``ccp_sem_seg_{train,val,test}`` are registered in LVIS's format, too: ``ccp_{train,val,test}``.

detectron2 itself registers ADE20K, which only gets colours and the head/body/tail split here, and
LVIS (``lvis_v1_*``, ``lvis_v0.5_*``), which gets a loader that needs no other package. The number
of instances or images of each LVIS class is in the metadata of some versions of detectron2 only,
so count the annotations instead.
"""

import detectron2.data  # noqa: F401  (registers ADE20K)

from longtail.data.datasets.ade20k import complete_ade20k
from longtail.data.datasets.camvid import register_camvid
from longtail.data.datasets.ccp import register_ccp
from longtail.data.datasets.cifar_lt import register_cifar_lt
from longtail.data.datasets.coco_stuff import register_coco_stuff
from longtail.data.datasets.digit_scenes import register_digit_scenes
from longtail.data.datasets.digits_lt import register_digits_lt
from longtail.data.datasets.image_list import register_image_list
from longtail.data.datasets.imagenet_lt import register_imagenet_lt
from longtail.data.datasets.inaturalist import register_inaturalist
from longtail.data.datasets.iotkits_lt import register_iotkits_lt
from longtail.data.datasets.lvis import (
    load_lvis_json,
    register_lvis,
    register_lvis_camvid,
    register_lvis_instances,
    register_lvis_synthetic,
)
from longtail.data.datasets.places_lt import register_places_lt
from longtail.data.datasets.register import register_sem_seg
from longtail.data.datasets.synthetic import register_synthetic, register_synthetic_lt
from longtail.utils.datasets_root import datasets_root

__all__ = [
    "datasets_root",
    "load_lvis_json",
    "register_all",
    "register_image_list",
    "register_lvis_instances",
    "register_sem_seg",
]


def register_all(root: str) -> None:
    """Register everything under ``root``; earlier registrations of the same names are replaced.

    ADE20K stays where detectron2 put it when it was imported.

    Args:
        root: the folder that holds the data sets.
    """
    complete_ade20k()
    register_coco_stuff(root)
    register_camvid(root)
    register_ccp(root)
    register_synthetic(root)
    register_digit_scenes(root)
    register_lvis(root)
    register_lvis_synthetic(root)
    register_lvis_camvid(root)
    register_iotkits_lt(root)
    register_imagenet_lt(root)
    register_places_lt(root)
    register_inaturalist(root)
    register_digits_lt(root)
    register_synthetic_lt(root)
    register_cifar_lt(root)


register_all(datasets_root())
