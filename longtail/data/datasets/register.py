# SPDX-License-Identifier: Apache-2.0
"""Registration of a semantic segmentation data set: pairs of images and 8-bit label maps.

K classes. A label map has the size of its image, values 0..K-1 and the ignore label.
"""

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.datasets.files import IMAGE_SUFFIXES, files_by_stem, left_out, read_stems
from longtail.data.statistics.groups import checked_groups

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike


def register_sem_seg(
    name: str,
    image_root: PathLike,
    label_root: PathLike,
    classes: Sequence[str],
    *,
    colors: Sequence[Sequence[int]] | None = None,
    ignore_label: int = 255,
    class_groups: Mapping[str, Sequence[int]] | None = None,
    image_ext: str | None = None,
    label_ext: str = ".png",
    file_names: Sequence[str] | PathLike | None = None,
    sub_folders: bool = False,
    hint: str = "",
) -> None:
    """Register a data set in detectron2's ``DatasetCatalog`` and ``MetadataCatalog``.

    Nothing is read before the data set is first used, so the folders need not exist yet. A data
    set of the same name is replaced. The records are those of detectron2's own loader:
    ``file_name`` and ``sem_seg_file_name``, sorted by name; sizes are left out, since reading
    those of 118,000 images takes minutes.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        image_root: folder of the images.
        label_root: folder of the label maps, PNG files with the names of their images.
        classes: the K class names, in the order of the label values.
        colors: K colours (red, green, blue), 0..255; :func:`class_colors` if not given.
        ignore_label: the label value that stands for no class.
        class_groups: class indices of each group, such as head, body and tail; every class is
            in exactly one group.
        image_ext: ending of the image files, such as ``"jpg"`` or ``"_leftImg8bit.png"``; JPEG,
            PNG, TIFF and WebP if not given.
        label_ext: ending of the label maps, such as ``"_labels.png"``. A pair has in common what
            is before the endings.
        file_names: the images that belong to the data set, without folder and ending: a list of
            names, or a text file with one a line. All images of the folder if not given.
        sub_folders: whether the two folders have sub-folders of the same names; names of images
            are then paths such as ``aachen/0001``.
        hint: how to make what is missing, for the error messages.

    Raises:
        ValueError: the arguments contradict each other. Using the data set raises
            ``FileNotFoundError`` for a missing folder or list and ``ValueError`` for images and
            labels that are not pairs.
    """
    classes = list(classes)
    colors = class_colors(len(classes)) if colors is None else [list(color) for color in colors]
    _check_classes(name, classes, colors, ignore_label)
    metadata = {
        "stuff_classes": classes,
        "stuff_colors": colors,
        "ignore_label": ignore_label,
        "evaluator_type": "sem_seg",
        "image_root": os.fspath(image_root),
        "sem_seg_root": os.fspath(label_root),
    }
    if class_groups is not None:
        metadata["class_groups"] = checked_groups(class_groups, len(classes), name)
    load = partial(
        load_sem_seg_pairs,
        name,
        os.fspath(image_root),
        os.fspath(label_root),
        image_ext=image_ext,
        label_ext=label_ext,
        file_names=file_names,
        sub_folders=sub_folders,
        hint=hint,
    )
    replace_registration(name, load, metadata)


def replace_registration(
    name: str, load: Callable[[], list[dict]], metadata: Mapping[str, Any]
) -> None:
    """Register a data set in both catalogs; one of the same name is replaced.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        load: gives the records; called when the data set is first used.
        metadata: the attributes in ``MetadataCatalog``.
    """
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        # Its attributes can be set once only.
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)


def load_sem_seg_pairs(
    name: str,
    image_root: str,
    label_root: str,
    *,
    image_ext: str | None = None,
    label_ext: str = ".png",
    file_names: Sequence[str] | PathLike | None = None,
    sub_folders: bool = False,
    hint: str = "",
) -> list[dict[str, str]]:
    """List the records of a data set; the arguments are those of :func:`register_sem_seg`.

    Returns:
        ``[{"file_name": ..., "sem_seg_file_name": ...}, ...]``, sorted by name. Only the folders
        are listed, no file is opened.

    Raises:
        FileNotFoundError: a folder or the list of names is missing.
        ValueError: an image without label, a label without image, or no image at all.
    """
    remedy = hint or "every image needs a label map of the same name, and the other way round"
    for folder in (image_root, label_root):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{name}: the folder {folder} is missing; {remedy}")
    suffixes = IMAGE_SUFFIXES if image_ext is None else (_ending(image_ext),)
    images = files_by_stem(image_root, suffixes, sub_folders=sub_folders)
    labels = files_by_stem(label_root, (_ending(label_ext),), sub_folders=sub_folders)
    others = [] if sub_folders else _left_out(image_root, label_root, suffixes)
    remedy = "; ".join([remedy, *others])
    if file_names is None:
        stems = sorted(images.keys() | labels.keys())
    else:
        stems = sorted(_listed_stems(name, file_names, remedy))
    _check_pairs(name, "image", image_root, [s for s in stems if s not in images], remedy)
    _check_pairs(name, "label map", label_root, [s for s in stems if s not in labels], remedy)
    if not stems:
        raise ValueError(f"{name}: no images in {image_root}; {remedy}")
    if file_names is None:
        for other in others:
            _warn_once(f"{name}: {other}")
    return [{"file_name": images[s], "sem_seg_file_name": labels[s]} for s in stems]


def class_colors(num_classes: int) -> list[list[int]]:
    """Choose colours for classes without colours of their own, always the same ones.

    They are the colour map of PASCAL VOC from its first class on: bit k of (class + 1) goes to
    channel k mod 3 (red, green, blue), the lowest bits to the most significant places. All are
    different, and none is black.

    Args:
        num_classes: K.

    Returns:
        K lists (red, green, blue), 0..255.
    """
    return [
        [sum((i >> (3 * j + c) & 1) << (7 - j) for j in range(8)) for c in range(3)]
        for i in range(1, num_classes + 1)
    ]


def _ending(ext: str) -> str:
    return ext if "." in ext else f".{ext}"


def _left_out(image_root: str, label_root: str, suffixes: tuple[str, ...]) -> list[str]:
    hints = "set image_ext, or convert them", "label maps are PNG files, convert them"
    if os.path.samefile(image_root, label_root):
        found = [left_out(image_root, (*suffixes, ".png"), hints[0])]
    else:
        found = [
            left_out(image_root, suffixes, hints[0]),
            left_out(label_root, (".png",), hints[1]),
        ]
    return list(filter(None, found))


# A data set is listed several times in a run.
@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _listed_stems(name: str, file_names: Sequence[str] | PathLike, remedy: str) -> set[str]:
    if not isinstance(file_names, (str, os.PathLike)):
        return set(file_names)
    if not os.path.isfile(file_names):
        raise FileNotFoundError(f"{name}: the list of images {file_names} is missing; {remedy}")
    return set(read_stems(os.fspath(file_names)))


def _check_pairs(name: str, what: str, folder: str, missing: list[str], remedy: str) -> None:
    if missing:
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(f"{name}: no {what} in {folder} for {len(missing)} ({first}); {remedy}")


def _check_classes(
    name: str, classes: list[str], colors: list[list[int]], ignore_label: int
) -> None:
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"{name}: classes must be different names, at least one, got {classes}")
    if len(colors) != len(classes):
        raise ValueError(f"{name}: {len(classes)} classes need as many colors, got {len(colors)}")
    if 0 <= ignore_label < len(classes):
        raise ValueError(
            f"{name}: ignore_label {ignore_label} is also the index of class "
            f"{classes[ignore_label]!r}; use a value outside 0..{len(classes) - 1}, such as 255"
        )
