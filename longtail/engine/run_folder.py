# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: one run at a time, none overwritten by accident, and its checkpoints."""

import contextlib
import errno
import fcntl
import fnmatch
import logging
import os
import re
import shutil
import socket
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from longtail.utils.errors import first_line
from longtail.utils.io import remove_temporary_files

LOCK = ".lock"
TAG = "last_checkpoint"
# What a run consists of, besides logs: what --overwrite removes.
LOGS = ("metrics.json", "last_evaluation.json", "events.out.tfevents.*")
# A folder, of a sharded model: what each process writes, and what is left.
SHARDED = ".sharded"
REST = "rest.pth"
FILES = ("model_*.pth", f"model_*{SHARDED}", TAG, *LOGS)
PERIODIC = re.compile(rf"model_(\d{{7}})(\.pth|{re.escape(SHARDED)})")


@contextlib.contextmanager
def run_folder(
    folder: str | os.PathLike, *, weights: str = "", resume: bool = False, overwrite: bool = False
) -> Iterator[None]:
    """Own the folder of a run; the lock is gone with the process, however that ends.

    Args:
        folder: OUTPUT_DIR; made if it does not exist.
        weights: what the run starts from.
        resume: continue what is there.
        overwrite: remove what is there.

    Raises:
        ValueError: another process owns it; or it holds a run, which is neither to be continued
            nor overwritten, or the weights that the run starts from.
        OSError: the folder cannot be written.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    # Never removed: another process may wait for this very file.
    with open(path / LOCK, "a+", encoding="utf-8") as lock:
        try:
            # Not flock, which the workers of a killed run would hold until they notice.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                logging.getLogger(__name__).warning(
                    "OUTPUT_DIR %s cannot be locked (%s): let no other run use it", folder, error
                )
            else:
                lock.seek(0)
                owner = lock.read().strip() or "another process"
                raise ValueError(
                    f"OUTPUT_DIR {folder} is in use by {owner}: wait for it, or set another "
                    "OUTPUT_DIR"
                ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        if freed := remove_temporary_files(path):
            logging.getLogger(__name__).info(
                "removed %.1f MB of files that were never finished", freed / 1e6
            )
        if not resume:
            _check_fresh(path, weights, overwrite)
        if not checkpoints(path):
            if resume:
                logging.getLogger(__name__).warning(
                    "--resume: OUTPUT_DIR %s has no checkpoint yet: starting at iteration 0", folder
                )
            # Of a run that was killed before its first checkpoint.
            _remove(path, LOGS)
        yield


def _check_fresh(path: Path, weights: str, overwrite: bool) -> None:
    own = any(fnmatch.fnmatch(os.path.basename(weights), pattern) for pattern in FILES)
    if own and os.path.realpath(os.path.dirname(weights)) == os.path.realpath(path):
        raise ValueError(
            f"OUTPUT_DIR {path} holds MODEL.WEIGHTS {weights}, which this run would overwrite: set "
            "another OUTPUT_DIR"
        )
    found = checkpoints(path)
    if not found:
        return
    if not overwrite:
        raise ValueError(
            f"OUTPUT_DIR {path} holds a run ({found[0].name}): continue it with --resume, replace "
            "it with --overwrite, or set another OUTPUT_DIR"
        )
    _remove(path, FILES)


def _remove(path: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for file in path.glob(pattern):
            remove(file)


def remove(checkpoint: Path) -> None:
    """Remove a file, or a folder of shards, that may be gone already."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


def checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints that a run can be continued from, the newest first.

    That is the one that ``last_checkpoint`` names, then those before it.
    """
    path = Path(folder)
    periodic = [p for p in path.glob("model_*") if PERIODIC.fullmatch(p.name)]
    found = sorted(periodic, reverse=True)
    final = path / "model_final.pth"
    if final.is_file():
        # After those that were written before it; a run may have been extended since.
        time = final.stat().st_mtime_ns
        newer = [p for p in found if p.stat().st_mtime_ns > time]
        found = [*newer, final, *(p for p in found if p not in newer)]
    tagged = _tagged(path)
    if tagged is None:
        return found
    # What is newer than the tag is of another, longer run.
    older = found[found.index(tagged) :] if tagged in found else found
    return [tagged, *(p for p in older if p != tagged)]


def newest_whole_checkpoint(folder: str | os.PathLike) -> Path | None:
    """The newest checkpoint that is not damaged; the log names those that are.

    The file ``last_checkpoint`` says which it is; without it, or if that is damaged, the one
    before is taken.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        ValueError: there are checkpoints, and all are damaged.
    """
    problems = []
    found = checkpoints(folder)
    # A sharded run's model_final.pth has no more than weights.
    found = [path for path in found if path.suffix == SHARDED] or found
    for candidate in found:
        problem = damage(candidate)
        if problem is None:
            for name, reason in problems:
                logging.getLogger(__name__).warning(
                    "the checkpoint %s is damaged (%s): continuing from %s", name, reason, candidate
                )
            return candidate
        problems.append((candidate, problem))
    if problems:
        listed = "; ".join(f"{name.name}: {reason}" for name, reason in problems)
        raise ValueError(
            f"--resume: OUTPUT_DIR {folder} has no checkpoint that is whole ({listed}): restore "
            "one, or start anew with --overwrite"
        )
    return None


def _tagged(path: Path) -> Path | None:
    try:
        name = (path / TAG).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    # A name only: the file is data.
    file = path / os.path.basename(name)
    found = file.is_file() or (file.is_dir() and file.suffix == SHARDED)
    return file if name and found else None


def damage(path: str | os.PathLike) -> str | None:
    """What is wrong with a checkpoint of a run; None if it can be loaded."""
    if Path(path).suffix == SHARDED:
        return _shard_damage(Path(path))
    if problem := wrong_checksum(path):
        return problem
    try:
        # The checksums do not cover the headers inside the file.
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        return first_line(error)
    return None


def _shard_damage(folder: Path) -> str | None:
    # Late: it takes a while, and few runs have any.
    from longtail.engine.shards import cut_short

    try:
        return cut_short(folder) or damage(folder / REST)
    # As of a damaged pickle.
    except Exception as error:
        return first_line(error)


def wrong_checksum(path: str | os.PathLike) -> str | None:
    """What is wrong with a file of torch's, by the checksums inside; None if they are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    # The module raises these and others, such as struct.error, on bytes that it did not expect.
    except Exception as error:
        return first_line(error)
    return None if broken is None else f"wrong checksum of {broken}"
