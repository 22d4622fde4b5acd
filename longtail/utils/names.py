# SPDX-License-Identifier: Apache-2.0
"""Looking names up that a user wrote into a config."""

import difflib
from collections.abc import Iterable
from typing import Any

# Names that an error proposes.
SHOWN = 5


def registered(registry: Iterable[tuple[str, Any]], name: str, key: str) -> Any:
    """Look up what is registered under a name.

    Args:
        registry: detectron2's registry, or other pairs of names and objects.
        name: what the config says.
        key: the config's key, for the error.

    Raises:
        ValueError: nothing has that name; the message proposes near ones.
    """
    objects = dict(registry)
    if name in objects:
        return objects[name]
    near = difflib.get_close_matches(name, objects, n=SHOWN, cutoff=0.5)
    hint = f"near names: {', '.join(near)}" if near else f"known: {', '.join(sorted(objects))}"
    raise ValueError(f"{key}: nothing is registered as {name!r}; {hint}")
