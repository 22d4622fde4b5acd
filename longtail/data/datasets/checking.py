# SPDX-License-Identifier: Apache-2.0
"""The header of every file of a data set, checked before a training meets them one by one.

No pixel is decoded, so that a million images are a matter of minutes.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog
from tqdm import tqdm

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
from longtail.data.statistics.counting import class_metadata
from longtail.utils.processes import map_jobs

# Kinds of findings, with their meaning.
ERRORS = {
    "data set": "cannot be loaded",
    "missing": "there is no such file",
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
# Files that are sent to a process together; starting it takes as long as some thousands.
CHUNK = 256
FEW = 4 * CHUNK


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


@dataclass
class HeaderReport:
    """What a check has found.

    Attributes:
        images: number of images looked at.
        label_maps: number of label maps looked at.
        counts: findings of each kind.
        messages: the first ones of each kind.
    """

    images: int = 0
    label_maps: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    messages: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def errors(self) -> int:
        """The number of findings that are errors."""
        return sum(self.counts[kind] for kind in ERRORS)

    @property
    def warnings(self) -> int:
        """The number of the others."""
        return sum(self.counts[kind] for kind in WARNINGS)

    def add(self, finding: Finding, shown: int) -> None:
        """Count a finding; the first ``shown`` of a kind are kept."""
        self.counts[finding.kind] += 1
        if self.counts[finding.kind] <= shown:
            self.messages[finding.kind].append(finding.message)


def check_headers(names: Iterable[str], num_workers: int = 1, shown: int = 5) -> HeaderReport:
    """Check the headers of all images and label maps of data sets.

    Args:
        names: registered data sets.
        num_workers: processes.
        shown: so many messages of each kind are kept.

    Raises:
        ValueError: a name is not registered, or ``num_workers`` or ``shown`` is out of range.
    """
    if num_workers < 1 or shown < 0:
        raise ValueError(
            f"num_workers must be at least 1 and shown at least 0, got {num_workers} and {shown}"
        )
    names = list(dict.fromkeys(names))
    for name in names:
        class_metadata(name)
    report = HeaderReport()
    for name in names:
        try:
            files = [_files(record) for record in DatasetCatalog.get(name)]
        except (OSError, ValueError, AssertionError) as error:
            text = str(error)
            report.add(Finding("data set", text if name in text else f"{name}: {text}"), shown)
            continue
        report.images += len(files)
        report.label_maps += sum(item.label is not None for item in files)
        workers = 1 if len(files) < FEW else num_workers
        found = map_jobs(check_files, files, workers, chunk_size=CHUNK)
        for findings in tqdm(found, f"headers of {name}", len(files), unit="image"):
            for finding in findings:
                report.add(finding, shown)
    return report


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


def _files(record: dict[str, Any]) -> Files:
    size = (record["height"], record["width"]) if {"height", "width"} <= record.keys() else None
    return Files(str(record["file_name"]), record.get("sem_seg_file_name"), size)


def _checked_header(
    path: str, check: Callable[[PathLike, ImageHeader], None], findings: list[Finding]
) -> ImageHeader | None:
    """Read a header; None where it is useless, and a finding says why."""
    try:
        header = read_header(path)
        check(path, header)
    except (OSError, ValueError) as error:
        kinds = {FileNotFoundError: "missing", UnsuitableImageError: "unsuitable"}
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
