# SPDX-License-Identifier: Apache-2.0
"""Findings of the headers of an image and its label map.

Apart from what loads data sets, so that processes that check nothing but files start quickly.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from longtail.data.formats.headers import (
    ImageHeader,
    PathLike,
    UnsuitableImageError,
    check_annotated_size,
    check_image,
    check_label_map,
    check_label_size,
    read_header,
)

MISSING = "missing"
# Kinds of findings, with their meaning.
ERRORS = {
    "data set": "cannot be loaded",
    MISSING: "there is no such file",
    "unreadable": "not an image, or damaged",
    "unsuitable": "would not be read as it is",
    "size": "image and labels have different sizes",
}
WARNINGS = {
    "turned": "EXIF data turn the image in a way that sizes do not show",
    "few bits": "grey label maps of fewer than 8 bits",
    "grey palette": "label maps with a palette of other greys than their indices",
    "16 bits": "images of 16 bits a channel",
}


class Files(NamedTuple):
    """What belongs to one image."""

    image: str
    label: str | None
    annotated: tuple[int, int] | None
    """(H, W) that the annotations are made for, where they say so."""


class Finding(NamedTuple):
    """Something that is wrong, or that somebody should look at."""

    kind: str
    message: str


def check_files(files: Files) -> list[Finding]:
    """Check the headers of an image and its label map, each alone and against the other."""
    findings: list[Finding] = []
    image = _checked_header(files.image, check_image, findings)
    label = None
    if files.label is not None:
        label = _checked_header(files.label, check_label_map, findings)
    if image is not None:
        findings += _size_findings(files, image, label)
        if image.bits > 8:
            text = f"{files.image} has {image.bits} bits a channel, of which the upper 8 are used"
            findings.append(Finding("16 bits", text))
    if label is not None:
        findings += _label_findings(files.label, label)
    return findings


def _checked_header(
    path: str, check: Callable[[PathLike, ImageHeader], None], findings: list[Finding]
) -> ImageHeader | None:
    """Read a header; None where it is useless, and a finding says why."""
    try:
        header = read_header(path)
        check(path, header)
    except (OSError, ValueError) as error:
        kinds = {FileNotFoundError: MISSING, UnsuitableImageError: "unsuitable"}
        findings.append(Finding(kinds.get(type(error), "unreadable"), str(error)))
        return None
    return header


def _size_findings(
    files: Files, image: ImageHeader, label: ImageHeader | None
) -> Iterator[Finding]:
    try:
        if files.annotated is not None:
            check_annotated_size(files.image, files.annotated, image)
        if label is not None:
            remedy = "both must be of one image"
            check_label_size(files.label, label.size, files.image, image, remedy)
    except UnsuitableImageError as error:
        yield Finding("size", str(error))
        return
    annotated = files.annotated is not None or (label is not None and label.orientation == 1)
    if annotated and image.is_turned_unseen:
        yield Finding(
            "turned",
            f"{files.image} has the EXIF orientation {image.orientation}: its annotations must be "
            "of the image as it is shown, not as it is stored; look at one",
        )


def _label_findings(path: str, label: ImageHeader) -> Iterator[Finding]:
    if label.mode != "P" and label.bits < 8:
        yield Finding(
            "few bits",
            f"{path} is grey with {label.bits} bits, whose values 0 to {2**label.bits - 1} are the "
            "labels; if a program has reduced it from 8 bits, it changed them: take the original",
        )
    if label.ramp:
        yield Finding(
            "grey palette",
            f"{path} has a palette of greys, whose indices are the labels; if a program has made "
            "it of a grey label map, the greys were: take the original",
        )
