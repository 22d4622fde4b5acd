# SPDX-License-Identifier: Apache-2.0
"""Images of one's own: folders, patterns, files, and the frames of videos."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
EXPECTED = (
    f"expected images ({', '.join(sorted(IMAGES))}) or videos ({', '.join(sorted(VIDEOS))}), a "
    "folder or a pattern of them"
)


@dataclass(frozen=True)
class Source:
    """An image, or a frame of a video.

    Attributes:
        name: of what is written about it, without ending; it may have folders in it.
        path: of the file.
        file_name: as the user knows it, for tables and JSON.
        frame: number of the frame, from 0; None of an image.
    """

    name: str
    path: str
    file_name: str
    frame: int | None = None


def find_sources(inputs: Iterable[str | os.PathLike]) -> list[Source]:
    """Find the images that are meant, without reading them; videos are counted frame by frame.

    Folders are searched with all folders below them, hidden files are left out. An image's name is
    its path below the folder, or below the fixed part of the pattern; a frame's is VIDEO/NUMBER.

    Args:
        inputs: folders, files, and patterns such as ``photos/**/*.jpg``.

    Raises:
        FileNotFoundError: there is nothing of that name, or no image.
        ValueError: a file is neither an image nor a video by its ending, a video cannot be read,
            or two would have the same name.
    """
    found: list[Source] = []
    for item in map(os.fspath, inputs):
        for root, path in _files(item):
            found += _frames(root, path) if _ending(path) in VIDEOS else [_image(root, path)]
    by_name: dict[str, Source] = {}
    for source in found:
        other = by_name.setdefault(source.name, source)
        if os.path.abspath(other.path) != os.path.abspath(source.path):
            raise ValueError(
                f"{other.path} and {source.path} would both become {source.name}: give them on "
                "their own, with another --output"
            )
    return list(by_name.values())


def _files(item: str) -> list[tuple[str, str]]:
    """The folder that names are below, and the path, of every file that is meant."""
    if os.path.isfile(item):
        if _ending(item) not in IMAGES | VIDEOS:
            raise ValueError(f"{item}: {EXPECTED}")
        return [(os.path.dirname(item), item)]
    if os.path.isdir(item):
        root, paths = item, sorted(_below(item))
    elif glob.has_magic(item):
        parts = Path(item).parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root = os.path.join(*parts[:fixed]) if fixed else ""
        paths = sorted(p for p in glob.glob(item, recursive=True) if os.path.isfile(p))
    else:
        raise FileNotFoundError(f"{item} does not exist: {EXPECTED}")
    paths = [path for path in paths if _ending(path) in IMAGES | VIDEOS]
    if not paths:
        raise FileNotFoundError(f"{item} has no image: {EXPECTED}")
    return [(root, path) for path in paths]


def _below(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _image(root: str, path: str) -> Source:
    file_name = Path(os.path.relpath(path, root or ".")).as_posix()
    return Source(os.path.splitext(file_name)[0], path, file_name)


def _frames(root: str, path: str) -> list[Source]:
    video = _image(root, path)
    with VideoReader(path) as reader:
        number = reader.count()
    return [
        Source(f"{video.name}/{frame:06d}", path, f"{video.file_name}/{frame:06d}", frame)
        for frame in range(number)
    ]


class VideoReader:
    """The frames of a video, read in ascending order; going back opens it again."""

    def __init__(self, path: str) -> None:
        """Open a video.

        Args:
            path: what OpenCV's build for this machine can decode.

        Raises:
            ValueError: it cannot be opened.
        """
        self.path = path
        self._open()

    def _open(self) -> None:
        self._capture = cv2.VideoCapture(self.path)
        self._next = 0
        if not self._capture.isOpened():
            raise ValueError(
                f"{self.path} cannot be read as a video: convert it to another format, or extract "
                "its frames as images"
            )

    def __enter__(self) -> "VideoReader":
        """Return the reader."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the video."""
        self._capture.release()

    def count(self) -> int:
        """The number of frames, by decoding all: what a file says of it is an estimate.

        Raises:
            ValueError: there is none.
        """
        while self._capture.grab():
            self._next += 1
        if not self._next:
            raise ValueError(f"{self.path} has no frame that can be read")
        return self._next

    def read(self, frame: int) -> np.ndarray:
        """Read a frame.

        Args:
            frame: its number, from 0.

        Returns:
            (H, W, 3) uint8, RGB.

        Raises:
            ValueError: the video has no such frame.
        """
        if frame < self._next:
            self._capture.release()
            self._open()
        while self._next < frame and self._capture.grab():
            self._next += 1
        found, image = self._capture.read()
        if not found or self._next < frame:
            raise ValueError(f"{self.path}: frame {frame} cannot be read")
        self._next += 1
        return np.ascontiguousarray(image[..., ::-1])


def batches(sources: Sequence[Source], size: int) -> list[Sequence[Source]]:
    """Cut sources into batches, in their order.

    Args:
        sources: all of them.
        size: of a batch.
    """
    return [sources[start : start + size] for start in range(0, len(sources), size)]
