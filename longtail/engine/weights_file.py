# SPDX-License-Identifier: Apache-2.0
"""Files of weights: torch's (.pth), and safetensors', which hold tensors and text alone."""

import json
import os
from collections.abc import Mapping
from typing import IO, Any

import safetensors
import safetensors.torch
from torch import Tensor
from torch import save as torch_save

from longtail.utils.errors import first_line

ENDING = ".safetensors"
# A header is longer than that in no file.
_LONGEST_HEADER = 100_000_000


def is_safetensors(path: str | os.PathLike) -> bool:
    """Tell by the ending, or the first bytes, whether a file is one of safetensors."""
    if os.fspath(path).endswith(ENDING):
        return True
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < _LONGEST_HEADER


def write_weights(
    file: IO[bytes],
    path: str,
    tensors: Mapping[str, Tensor],
    notes: Mapping[str, Any] | None = None,
    *,
    key: str = "model",
) -> None:
    """Write tensors by their names, in the format that the ending of a path says.

    Args:
        file: open for writing bytes.
        path: ``.safetensors``, or anything else for ``torch.save``.
        tensors: by their names.
        notes: plain values besides them; in a file of safetensors they are JSON.
        key: of the tensors in a file of torch's.
    """
    notes = dict(notes or {})
    if not path.endswith(ENDING):
        torch_save({key: dict(tensors), **notes}, file)
        return
    # Parts of one memory are refused.
    whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = {name: json.dumps(value) for name, value in notes.items()}
    file.write(safetensors.torch.save(whole, {"format": "pt", **text}))


def read_safetensors(path: str) -> dict[str, Any]:
    """Read tensors and notes; there is no code in such a file.

    Args:
        path: the file.

    Returns:
        ``{"model": tensors by name, ...}``, with the notes that :func:`write_weights` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # safetensors has an error of its own, and others pass.
    except Exception as error:
        raise ValueError(
            f"the weights {path} are damaged or not safetensors: fetch or write them again "
            f"({first_line(error)})"
        ) from None
    return {"model": tensors, **_values(notes)}


def _values(notes: Mapping[str, str]) -> dict[str, Any]:
    """What was written as JSON; the notes of other programs are left out."""
    values = {}
    for key in ("class_names", "post_hoc"):
        try:
            values[key] = json.loads(notes[key])
        except (KeyError, ValueError):
            continue
    return values
