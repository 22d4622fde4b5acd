# SPDX-License-Identifier: Apache-2.0
"""The header of every file of a data set, checked before a training meets them one by one.

No pixel is decoded, so that a million images are a matter of minutes.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from tqdm import tqdm

from longtail.data.formats.header_findings import (
    ERRORS,
    MISSING,
    WARNINGS,
    Files,
    Finding,
    check_files,
)
from longtail.data.statistics.counting import class_metadata
from longtail.utils.distributed import in_all_processes
from longtail.utils.processes import map_jobs

# Files that are sent to a process together; starting it takes as long as some thousands.
CHUNK = 256
FEW = 4 * CHUNK


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

    Within :func:`~longtail.utils.distributed.from_main_process` all processes check a part of them.

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
        share = functools.partial(_check_share, num_workers=num_workers, title=f"headers of {name}")
        for item, findings in zip(files, in_all_processes(share, files), strict=True):
            # Perhaps on another process's machine alone: this one looks for itself.
            lost = any(finding.kind == MISSING for finding in findings)
            for finding in check_files(item) if lost else findings:
                report.add(finding, shown)
    return report


def _check_share(files: Sequence[Files], *, num_workers: int, title: str) -> list[list[Finding]]:
    """The findings of some images."""
    workers = 1 if len(files) < FEW else num_workers
    found = map_jobs(check_files, files, workers, chunk_size=CHUNK)
    hidden = not comm.is_main_process()
    return list(tqdm(found, title, len(files), unit="image", disable=hidden))


def _files(record: dict[str, Any]) -> Files:
    size = (record["height"], record["width"]) if {"height", "width"} <= record.keys() else None
    return Files(str(record["file_name"]), record.get("sem_seg_file_name"), size)
