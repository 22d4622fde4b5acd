# SPDX-License-Identifier: Apache-2.0
"""What a declaration of a data set may say, by its kind, and the registration that follows.

K classes.
"""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from longtail.data.datasets.coco import METRICS, register_coco_json
from longtail.data.datasets.image_list import register_image_list
from longtail.data.datasets.lvis import register_lvis_instances
from longtail.data.datasets.named_images import CSV_COLUMNS, read_named, read_training_names
from longtail.data.datasets.register import register_sem_seg
from longtail.data.statistics.groups import LVIS_BOUNDS, FrequencyBounds
from longtail.utils.text import read_text

# A value as it stands in the file and its context, to what the registration takes.
Read = Callable[[Any, "Context"], Any]


@dataclass(frozen=True)
class Context:
    """Where a value stands.

    Attributes:
        where: data set and key, for messages.
        folder: of the file, which paths are relative to.
    """

    where: str
    folder: Path

    def error(self, expected: str, value: object) -> ValueError:
        """What is wrong with a value."""
        return ValueError(f"{self.where} must be {expected}, got {value!r:.80}")


@dataclass(frozen=True)
class Declaration:
    """A data set as a file declares it.

    Attributes:
        name: for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        kind: one of :data:`KINDS`.
        values: by key, with whole paths and names in place of files that list them.
        path: of the file.
    """

    name: str
    kind: str
    values: Mapping[str, Any]
    path: str

    @property
    def content(self) -> tuple[str, Mapping[str, Any]]:
        """What two declarations of one data set must have in common."""
        return self.kind, self.values

    def register(self) -> None:
        """Register the data set."""
        KINDS[self.kind].register(self.name, dict(self.values))


@dataclass(frozen=True)
class Kind:
    """What a kind of data set needs and may have, and how it is registered."""

    needed: Mapping[str, Read]
    optional: Mapping[str, Read]
    register: Callable[[str, dict[str, Any]], None]


def read_declaration(name: object, value: object, path: Path) -> Declaration:
    """Check one declaration.

    Args:
        name: the data set's.
        value: its keys and values.
        path: of the file.

    Raises:
        ValueError: a key is missing or unknown, or has a wrong value.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"the name of a data set must be text, got {name!r:.40}")
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected kind, images, ... below it, got {value!r:.40}")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{name}: kind must be one of {', '.join(KINDS)}, got {kind!r:.40}")
    reads = {**KINDS[kind].needed, **KINDS[kind].optional}
    for key in value:
        if key != "kind" and key not in reads:
            near = difflib.get_close_matches(str(key), reads, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"{name}: unknown key {key!r:.40}, {hint}{kind} has {', '.join(sorted(reads))}"
            )
    for key in KINDS[kind].needed:
        if value.get(key) is None:
            raise ValueError(f"{name}: {kind} needs the key {key}")
    values = {
        key: reads[key](given, Context(f"{name}: {key}", path.resolve().parent))
        for key, given in value.items()
        if key != "kind" and given is not None
    }
    _check_together(name, values)
    return Declaration(name, kind, values, os.fspath(path))


def _check_together(name: str, values: Mapping[str, Any]) -> None:
    rare, common = (values.get(key, getattr(LVIS_BOUNDS, key)) for key in ("rare", "common"))
    if rare >= common:
        raise ValueError(f"{name}: rare must be below common, got {rare} and {common}")
    classes = values.get("classes")
    if values.get("ignore_label", 255) < len(classes or []):
        raise ValueError(
            f"{name}: ignore_label {values.get('ignore_label', 255)} is also the label of one of "
            f"the {len(classes)} classes"
        )
    colors = values.get("colors")
    if isinstance(colors, list) and len(colors) != len(classes):
        raise ValueError(f"{name}: {len(classes)} classes need as many colors, got {len(colors)}")
    for key in ("colors", "groups"):
        named = values.get(key)
        listed = [c for g in named.values() for c in g] if key == "groups" and named else named
        if isinstance(named, dict) and sorted(listed) != sorted(classes or []):
            odd = sorted({*listed} ^ {*(classes or [])}) or "one twice"
            raise ValueError(f"{name}: {key} must name each of classes once, but for {odd!s:.80}")
    if values.get("format") == "lvis" and values.get("metrics", "lvis") != "lvis":
        raise ValueError(f"{name}: metrics of a file with format lvis are lvis")


# --- values ---


def _path(value: Any, context: Context) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise context.error("a path", value)
    return os.path.normpath(context.folder / value)


def _text(value: Any, context: Context) -> str:
    if not isinstance(value, str) or not value.strip():
        raise context.error("text", value)
    return value


def _name(value: Any, context: Context) -> str:
    # YAML takes 7 for a number, and no for False.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise context.error("names (of one that YAML reads otherwise, in quotes)", value)
    return value.strip()


def _classes(value: Any, context: Context) -> list[str]:
    if isinstance(value, str):
        file = _path(value, context)
        if not os.path.isfile(file):
            raise FileNotFoundError(
                f"{context.where}: {file} does not exist: name a text file with a class a line, "
                "or list the classes"
            )
        value = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not isinstance(value, list) or not value:
        raise context.error("a list of names, or a text file with one a line", value)
    names = [_name(item, context) for item in value]
    if twice := next((n for i, n in enumerate(names) if n in names[:i]), None):
        raise ValueError(f"{context.where}: {twice!r} is there twice")
    return names


def read_color(value: Any, context: Context) -> list[int]:
    """Red, green and blue of a colour as a list or as ``"#804080"``.

    Args:
        value: as it stands in a file.
        context: its place, for the message.

    Raises:
        ValueError: it is not a colour.
    """
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            return list(bytes.fromhex(value[1:]))
        except ValueError:
            pass
    is_color = isinstance(value, list) and len(value) == 3
    if not is_color or not all(type(v) is int and 0 <= v <= 255 for v in value):
        raise context.error("colours [red, green, blue] of 0 to 255, or '#804080'", value)
    return value


def _colors(value: Any, context: Context) -> dict[str, list[int]] | list[list[int]]:
    if isinstance(value, list):
        return [read_color(item, context) for item in value]
    if not isinstance(value, dict):
        raise context.error("a colour for each class", value)
    return {_name(key, context): read_color(item, context) for key, item in value.items()}


def _groups(value: Any, context: Context) -> dict[str, list[str]]:
    if not isinstance(value, dict) or not all(isinstance(v, list) for v in value.values()):
        raise context.error("lists of classes by the group's name", value)
    return {
        _name(key, context): [_name(item, context) for item in items]
        for key, items in value.items()
    }


def _integer(low: int, high: int) -> Read:
    def read(value: Any, context: Context) -> int:
        if type(value) is not int or not low <= value <= high:
            raise context.error(f"an integer from {low} to {high}", value)
        return value

    return read


def _one_of(*known: str) -> Read:
    def read(value: Any, context: Context) -> str:
        if value not in known:
            raise context.error(f"one of {', '.join(known)}", value)
        return value

    return read


def _columns(value: Any, context: Context) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise context.error("the names of two columns, [image, class]", value)
    return _name(value[0], context), _name(value[1], context)


# --- kinds ---


def _sem_seg(name: str, values: dict[str, Any]) -> None:
    classes = values["classes"]
    colors, groups = values.get("colors"), values.get("groups")
    register_sem_seg(
        name,
        values["images"],
        values["labels"],
        classes,
        colors=[colors[c] for c in classes] if isinstance(colors, dict) else colors,
        ignore_label=values.get("ignore_label", 255),
        class_groups=groups and {k: [classes.index(c) for c in v] for k, v in groups.items()},
        image_ext=values.get("image_ending"),
        label_ext=values.get("label_ending", ".png"),
        file_names=values.get("list"),
        sub_folders=True,
        hint="every image needs a label map of its name, and the other way round: correct the "
        "data file or the folders",
    )


def _instances(name: str, values: dict[str, Any]) -> None:
    if values.get("format") == "lvis":
        classes = {"thing_classes": values["classes"]} if "classes" in values else {}
        bounds = {"frequency_bounds": _bounds(values), "training_set": values.get("training_set")}
        register_lvis_instances(
            name, values["annotations"], values["images"], metadata={**classes, **bounds}
        )
        return
    register_coco_json(
        name,
        values["annotations"],
        values["images"],
        classes=values.get("classes"),
        metrics=values.get("metrics", METRICS[0]),
        training_set=values.get("training_set"),
        bounds=_bounds(values),
    )


def _bounds(values: Mapping[str, Any]) -> FrequencyBounds:
    return FrequencyBounds(**{key: values[key] for key in ("rare", "common") if key in values})


def _classification(name: str, values: dict[str, Any]) -> None:
    training_set = values.get("training_set", name)
    listed = values.get("list")
    classes = values.get("classes")
    options: dict[str, Any] = {"training_set": training_set, "classes": classes}
    columns = values.get("columns", CSV_COLUMNS)
    if listed is None or listed.lower().endswith(".csv"):
        # The training set's own names, unless they are said.
        names = classes or partial(read_training_names, training_set)
        options["read"] = partial(
            read_named, columns=columns, classes=None if training_set == name else names
        )
        if classes is not None:
            options["read"] = partial(read_named, columns=columns, classes=classes)
    register_image_list(
        name,
        listed or values["images"],
        values["images"],
        every_class=training_set == name,
        **options,
    )


KINDS = {
    "sem_seg": Kind(
        needed={"images": _path, "labels": _path, "classes": _classes},
        optional={
            "ignore_label": _integer(0, 255),
            "colors": _colors,
            "groups": _groups,
            "image_ending": _text,
            "label_ending": _text,
            "list": _path,
        },
        register=_sem_seg,
    ),
    "instances": Kind(
        needed={"images": _path, "annotations": _path},
        optional={
            "classes": _classes,
            "format": _one_of("coco", "lvis"),
            "metrics": _one_of(*METRICS),
            "training_set": _text,
            "rare": _integer(0, 2**31),
            "common": _integer(1, 2**31),
        },
        register=_instances,
    ),
    "classification": Kind(
        needed={"images": _path},
        optional={
            "list": _path,
            "columns": _columns,
            "classes": _classes,
            "training_set": _text,
        },
        register=_classification,
    ),
}
