"""Registration of the data sets under ``DETECTRON2_DATASETS``, on import as detectron2 does it.

Registered here: ``coco_stuff_164k_sem_seg_{train,val}``, ``coco_stuff_10k_sem_seg_{train,test}``,
``camvid_sem_seg_{train,val,test}``, and in LVIS's format ``lvis_synthetic_{train,val}`` and
``lvis_camvid_{train,val}``. detectron2 itself registers ADE20K, which only gets colours and the
head/body/tail split here, and LVIS (``lvis_v1_*``, ``lvis_v0.5_*``), which gets a loader that
needs no other package. The number of instances or images of each LVIS class is in the metadata of
some versions of detectron2 only, so count the annotations instead.
"""

import detectron2.data  # noqa: F401  (registers ADE20K)

from longtail.data.datasets.ade20k import complete_ade20k
from longtail.data.datasets.camvid import register_camvid
from longtail.data.datasets.coco_stuff import register_coco_stuff
from longtail.data.datasets.files import datasets_root
from longtail.data.datasets.lvis import (
    load_lvis_json,
    register_lvis,
    register_lvis_camvid,
    register_lvis_instances,
    register_lvis_synthetic,
)
from longtail.data.datasets.register import register_sem_seg
from longtail.data.datasets.synthetic import register_synthetic

__all__ = [
    "datasets_root",
    "load_lvis_json",
    "register_all",
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
    register_synthetic(root)
    register_lvis(root)
    register_lvis_synthetic(root)
    register_lvis_camvid(root)


register_all(datasets_root())
