# SPDX-License-Identifier: Apache-2.0
"""Registration of image classification data sets, from a list of files and labels.

N images, K classes; labels are 0..K-1.
"""

import contextlib
import itertools
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.datasets.files import SHOWN, missing_files, shown
from longtail.data.datasets.register import PathLike, replace_registration
from longtail.data.formats.image_list import LabeledImages, read_image_list
from longtail.data.formats.paths import check_relative


def register_image_list(
    name: str,
    list_file: PathLike,
    image_root: PathLike,
    *,
    training_set: str | None = None,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    every_class: bool = False,
    hint: str = "",
    read: Callable[[str], LabeledImages] = read_image_list,
) -> None:
    """Register an image classification data set.

    Nothing is read before the data set is first used. A data set of the same name is replaced.
    Records are ``{"file_name", "image_id": position in the list, "label"}``. The metadata are
    ``evaluator_type`` ``"classification"``, ``training_set``, ``list_file``, ``image_root``,
    ``load_labels``, a function without arguments that gives the N labels from the lists alone,
    and ``thing_classes``; where nothing gives names, those are set once one of the two has been
    used: of the training set each image's folder below the folder that all of its images share.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        list_file: the list: lines ``path label``, unless ``read`` reads another format, or a
            folder.
        image_root: the folder that its paths are relative to.
        training_set: the registered set, of the same classes, whose class counts tell frequent
            from rare classes; by default this set itself if ``every_class``, otherwise none.
        classes: K names in the order of the labels; by default what ``read`` gives, or those of
            ``training_set``.
        num_classes: K, where it is known.
        every_class: whether a class without images is an error, as it is in training.
        hint: how to make what is missing, for the error messages.
        read: reads the list; ``ValueError`` for a bad one.

    Raises:
        Using the data set raises ``FileNotFoundError`` for a missing list or missing images, and
        ``ValueError`` for a list that is empty or malformed, names an image twice, has a label
        outside 0..K-1, or no image of a class.
    """
    images = _ImageSet(
        name=name,
        list_file=os.fspath(list_file),
        image_root=os.fspath(image_root),
        training_set=training_set or (name if every_class else None),
        num_classes=num_classes,
        every_class=every_class,
        hint=hint or "add them, or correct the path with which the data set was registered",
        read=read,
    )
    metadata = {
        "evaluator_type": "classification",
        "training_set": images.training_set,
        "list_file": images.list_file,
        "image_root": images.image_root,
        "load_labels": images.load_labels,
    }
    if classes is not None:
        metadata["thing_classes"] = list(classes)
    replace_registration(name, images.load_records, metadata)


@dataclass(frozen=True)
class _ImageSet:
    """A registered set; the attributes are the arguments of :func:`register_image_list`."""

    name: str
    list_file: str
    image_root: str
    training_set: str | None
    num_classes: int | None
    every_class: bool
    hint: str
    read: Callable[[str], LabeledImages]

    def load_labels(self) -> list[int]:
        return self._labeled_images().labels

    def load_records(self) -> list[dict[str, Any]]:
        images = self._labeled_images()
        missing = missing_files(self.image_root, images.files)
        if missing:
            raise FileNotFoundError(
                f"{self.name}: {len(missing)} of {len(images.files)} images are not in "
                f"{self.image_root} ({shown(missing)}); {self.hint}"
            )
        return [
            {"file_name": os.path.join(self.image_root, file), "image_id": index, "label": label}
            for index, (file, label) in enumerate(zip(images.files, images.labels, strict=True))
        ]

    def _labeled_images(self) -> LabeledImages:
        """Read and check the list; afterwards the class names are in the metadata."""
        if not os.path.exists(self.list_file):
            what = "folder" if self.list_file == self.image_root else "list"
            raise FileNotFoundError(
                f"{self.name}: the {what} {self.list_file} is missing; {self.hint}"
            )
        metadata = MetadataCatalog.get(self.name)
        with self._named_errors():
            images = self.read(self.list_file)
        names = metadata.get("thing_classes") or images.class_names
        if names is None and self.training_set not in (None, self.name):
            names = self._names_of_training_set()
        with self._named_errors():
            num_classes = self.num_classes if names is None else len(names)
            _check_entries(images, num_classes)
            if self.every_class or names is None:
                _check_every_class(images.labels, num_classes)
            names = names or _folder_names(images)
            if self.num_classes not in (None, len(names)):
                raise ValueError(f"{len(names)} classes, expected {self.num_classes}")
        if metadata.get("thing_classes") is None:
            metadata.thing_classes = names
        return images

    def _names_of_training_set(self) -> list[str]:
        if self.training_set not in DatasetCatalog:
            raise ValueError(
                f"{self.name}: its training set {self.training_set!r} is not registered: register "
                "it, or name the classes"
            )
        metadata = MetadataCatalog.get(self.training_set)
        if metadata.get("thing_classes") is None:
            try:
                metadata.load_labels()
            except FileNotFoundError:
                if self.num_classes is None:
                    raise
                # An evaluation does not need the training set.
                return [str(label) for label in range(self.num_classes)]
        return metadata.thing_classes

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.name}: {self.list_file}: {error}") from None


def _check_entries(images: LabeledImages, num_classes: int | None) -> None:
    if not images.files:
        raise ValueError("the list is empty: it needs a line 'path label' for each image")
    first: dict[str, int] = {}
    for number, (file, label) in enumerate(zip(images.files, images.labels, strict=True), start=1):
        if label < 0 or (num_classes is not None and label >= num_classes):
            expected = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
            raise ValueError(f"entry {number}, {file}, has the label {label}, expected {expected}")
        try:
            check_relative(file)
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
        if first.setdefault(file, number) != number:
            raise ValueError(f"entry {number}, {file}, is entry {first[file]} again: remove one")


def _check_every_class(labels: Sequence[int], num_classes: int | None) -> None:
    seen = set(labels)
    num_classes = max(seen) + 1 if num_classes is None else num_classes
    absent = num_classes - len(seen)
    if absent:
        # Not all of them: one label may be a typing error with ten digits.
        first = list(itertools.islice((k for k in range(num_classes) if k not in seen), SHOWN + 1))
        raise ValueError(
            f"{absent} of {num_classes} classes have no image (labels {shown(first)}): "
            "add images of them, or number the others from 0 on"
        )


def _folder_names(images: LabeledImages) -> list[str]:
    """Name the K classes by their folders, below the folder that all images share."""
    common = posixpath.commonpath({posixpath.dirname(file) for file in images.files})
    names: dict[int, str] = {}
    owner: dict[str, int] = {}
    for file, label in zip(images.files, images.labels, strict=True):
        name = posixpath.dirname(file)[len(common) :].lstrip("/")
        if names.setdefault(label, name) != name or owner.setdefault(name, label) != label:
            raise ValueError(
                f"{file} has the label {label}, but classes and folders do not correspond one to "
                "one: register the set with the names of its classes"
            )
    return [names[label] for label in range(len(names))]
