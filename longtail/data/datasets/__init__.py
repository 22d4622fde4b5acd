"""Registration of the data sets under ``DETECTRON2_DATASETS``, on import as detectron2 does it.

Registered here: ``coco_stuff_164k_sem_seg_{train,val}``, ``coco_stuff_10k_sem_seg_{train,test}``
and ``camvid_sem_seg_{train,val,test}``. detectron2 itself registers ADE20K, which only gets
colours and the head/body/tail split here, and LVIS (``lvis_v1_*``, ``lvis_v0.5_*``), which is
used as it is: ``thing_classes`` and evaluator type ``lvis``. The number of instances or images
of each LVIS class is in the metadata of some versions of detectron2 only, so count the
annotations instead.
"""

import detectron2.data  # noqa: F401  (registers ADE20K and LVIS)

from longtail.data.datasets.ade20k import complete_ade20k
from longtail.data.datasets.camvid import register_camvid
from longtail.data.datasets.coco_stuff import register_coco_stuff
from longtail.data.datasets.files import datasets_root
from longtail.data.datasets.register import register_sem_seg
from longtail.data.datasets.synthetic import register_synthetic

__all__ = ["datasets_root", "register_all", "register_sem_seg"]


def register_all(root: str) -> None:
    """Register everything under ``root``; earlier registrations of the same names are replaced.

    ADE20K and LVIS stay where detectron2 put them when it was imported.

    Args:
        root: the folder that holds the data sets.
    """
    complete_ade20k()
    register_coco_stuff(root)
    register_camvid(root)
    register_synthetic(root)


register_all(datasets_root())
