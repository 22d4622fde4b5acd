# SPDX-License-Identifier: Apache-2.0
"""Compare two finished trainings bit for bit: weights, optimizer, positions, metrics."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# What differs between two runs of the same training.
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds", "max_host_mem_mb", "max_mem"}


def differences(first: Path, second: Path) -> list[str]:
    """Name what differs between the final checkpoints and the metrics of two runs, but for times.

    Args:
        first: folder of one run.
        second: folder of the other.

    Raises:
        ValueError: metrics.json holds an iteration twice.
    """
    states = [torch.load(f / "model_final.pth", weights_only=True) for f in (first, second)]
    found = _different(states[0], states[1], "checkpoint")
    lines = [_metrics(folder / "metrics.json") for folder in (first, second)]
    if lines[0].keys() != lines[1].keys():
        found.append(f"metrics.json: iterations {sorted(lines[0])} and {sorted(lines[1])}")
    for iteration in lines[0].keys() & lines[1].keys():
        found += _different(lines[0][iteration], lines[1][iteration], f"metrics.json: {iteration}")
    return found


def _metrics(path: Path) -> dict[int, dict]:
    records: dict[int, dict] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["iteration"] in records:
            raise ValueError(f"{path} holds iteration {record['iteration']} twice")
        records[record["iteration"]] = {k: v for k, v in record.items() if k not in TIMES}
    return records


def _different(first: Any, second: Any, name: str) -> list[str]:
    if isinstance(first, Tensor):
        same = isinstance(second, Tensor) and torch.equal(first, second)
        return [] if same else [name]
    if isinstance(first, dict):
        if not isinstance(second, dict) or first.keys() != second.keys():
            return [name]
        keys = [key for key in first if key not in TIMES]
        return [d for key in keys for d in _different(first[key], second[key], f"{name}.{key}")]
    if isinstance(first, (list, tuple)):
        if not isinstance(second, (list, tuple)) or len(first) != len(second):
            return [name]
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, pair in pairs for d in _different(*pair, f"{name}[{i}]")]
    same = first == second or (first != first and second != second)
    return [] if same else [name]
