"""From what the official sites ship to the layout that the registered data sets expect.

:func:`prepare_dataset` does it for one data set; ``tools/prepare_datasets.py`` is its command.
"""

from longtail.data.prepare.ade20k import ADE20K
from longtail.data.prepare.camvid import CAMVID
from longtail.data.prepare.camvid_instances import write_camvid_instances
from longtail.data.prepare.coco_stuff import COCO_STUFF_10K, COCO_STUFF_164K
from longtail.data.prepare.lvis import check_lvis
from longtail.data.prepare.runner import Report, prepare

__all__ = ["NAMES", "RECIPES", "Report", "prepare_dataset"]

RECIPES = {recipe.name: recipe for recipe in (ADE20K, COCO_STUFF_164K, COCO_STUFF_10K, CAMVID)}
NAMES = (*RECIPES, "camvid_instances", "lvis")


def prepare_dataset(
    name: str,
    root: str,
    *,
    source: str | None = None,
    splits: list[str] | None = None,
    workers: int | None = None,
) -> Report:
    """Convert the label maps of a data set, and complete its layout under ``root``.

    ``"camvid_instances"`` derives objects from CamVid's converted label maps, and ``"lvis"`` only
    checks what is there: the first takes none of the options, the second the splits alone.

    May be stopped and called again: every file is written atomically, and what exists and is
    newer than its source is skipped. A faulty file does not keep the others from being written.

    Args:
        name: one of ``NAMES``.
        root: the folder that holds the data sets.
        source: the folder with the content of the official archive, its place under ``root`` if
            not given. From another place the images are copied, too.
        splits: the splits to do, all if not given.
        workers: threads, as many as the process has processors if not given.

    Returns:
        What was done, and what is wrong with the source.

    Raises:
        ValueError: unknown name or split, or a number of workers below 1.
        FileNotFoundError: there is no source.
        OSError: a file cannot be written.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; expected one of {', '.join(NAMES)}")
    if name not in RECIPES and (source is not None or workers is not None):
        raise ValueError(f"{name} has no source to convert: it takes no --source and no --workers")
    if name == "lvis":
        return check_lvis(root, splits)
    if name == "camvid_instances":
        if splits is not None:
            raise ValueError("camvid_instances takes no --splits: it needs train and val")
        return write_camvid_instances(root)
    return prepare(RECIPES[name], root, source=source, splits=splits, workers=workers)
