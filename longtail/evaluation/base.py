# SPDX-License-Identifier: Apache-2.0
"""The part that the evaluators of all tasks share: a registered data set and several processes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

import longtail.data  # noqa: F401  (registers the data sets)
from longtail.evaluation.provenance import moment

T = TypeVar("T")
# Of the reports; raised where a reader of older ones would misunderstand newer ones.
FORMAT = 1


def test_set_fingerprint(class_names: Sequence[str], *columns: np.ndarray | Sequence[str]) -> str:
    """Compute a hexadecimal SHA-256 that tells one test set from another.

    It is the same on every machine: neither folders nor times are part of it.

    Args:
        class_names: K names in the test set's order.
        columns: of images or annotations, in an order of their own: numbers, or names.
    """
    digest = hashlib.sha256(json.dumps(list(class_names)).encode())
    for column in columns:
        if isinstance(column, np.ndarray):
            digest.update(f"{column.dtype.str} {column.shape}".encode())
            digest.update(np.ascontiguousarray(column).tobytes())
        else:
            digest.update(json.dumps(list(column)).encode())
    return digest.hexdigest()


class LongTailEvaluator(DatasetEvaluator):
    """An evaluator of one registered data set, in one process or in several.

    Attributes:
        task: what reports call it, set by each evaluator.
        provenance: what reports say about the origin of the metrics, see
            :func:`~longtail.evaluation.provenance.provenance`; empty if nobody sets it.
        max_iter: iterations of the training run that the evaluation is part of.
    """

    task = ""

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True
    ) -> None:
        """Look the data set up.

        Args:
            dataset_name: a registered data set.
            output_dir: where files go; nothing is written without it.
            distributed: whether :meth:`gather` brings what all processes have. Otherwise each
                process evaluates what it has seen.

        Raises:
            ValueError: the data set is not registered.
        """
        if dataset_name not in DatasetCatalog.list():
            raise ValueError(f"{type(self).__name__}: data set {dataset_name!r} is not registered")
        self._dataset_name = dataset_name
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = Path(output_dir) if output_dir else None
        self._distributed = distributed
        self.provenance: Mapping[str, Any] = {}
        self.max_iter = 0

    def recorded(self, fingerprint: str, report: Mapping[str, Any]) -> dict[str, Any]:
        """Complete a report with what every task's says: of which data, and how it came about.

        Args:
            fingerprint: of :func:`test_set_fingerprint`.
            report: the metrics, and whatever belongs to the task.

        Returns:
            ``{"format": FORMAT, "task", "dataset", "fingerprint", ..., "provenance": {...}}``.
        """
        origin = {**self.provenance, **moment(self.max_iter)}
        return {
            "format": FORMAT,
            "task": self.task,
            "dataset": self._dataset_name,
            "fingerprint": fingerprint,
            **report,
            "provenance": origin,
        }

    def needed_metadata(self, key: str, meaning: str) -> Any:
        """Look a value up that the metadata of the data set must have.

        Args:
            key: name of the value.
            meaning: in words, for the message.

        Raises:
            ValueError: it is absent or empty.
        """
        value = self._metadata.get(key, None)
        if not value:
            raise ValueError(
                f"{type(self).__name__}: the metadata of {self._dataset_name!r} has no {key}; "
                f"register it with its {meaning}"
            )
        return value

    @property
    def is_alone(self) -> bool:
        """Tell whether there is nothing to gather from other processes."""
        return not self._distributed or comm.get_world_size() == 1

    def gather(self, mine: T) -> list[T] | None:
        """Bring an object of every process to the main process.

        Args:
            mine: an object that can be pickled.

        Returns:
            The objects by rank in the main process, None in the others; ``[mine]`` if
            :attr:`is_alone`.
        """
        if self.is_alone:
            return [mine]
        # Not detectron2's comm.gather: it keeps its process group alive in a cache, and a program
        # that has destroyed its groups is now and then aborted at exit because of it.
        parts = [None] * comm.get_world_size() if comm.is_main_process() else None
        dist.gather_object(mine, parts)
        return parts
