# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files use."""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported, and for subprocesses too: on tensors this small threads only wait for
# each other, on a busy machine for minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data folder ../shared/data is not on this machine")
    return folder


@pytest.fixture
def kept_logging() -> Iterator[None]:
    """Runs of train_net.py set up logging for the whole process: take it back."""
    kept = [logging.getLogger(name) for name in ("detectron2", "fvcore", "longtail")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in kept]
    yield
    for logger, (handlers, propagate, level) in zip(kept, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def pytest_collection_finish() -> None:
    """Leave what is imported, and all tests' cases, to no further garbage collection."""
    gc.collect()
    gc.freeze()
