# SPDX-License-Identifier: Apache-2.0
"""What an image file says before its pixels, and the rules that follow from it.

Images are shown, and read, turned as their EXIF data say. A label map belongs to the image as it is
shown and has that size; it is turned itself only where it carries EXIF data of its own.

H, W: height and width of an image.
"""

import contextlib
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from detectron2.utils.file_io import PathManager
from PIL import Image

PathLike = str | os.PathLike

# What becomes 8-bit RGB with the brightness that it has; in others, all above 255 would be 255.
IMAGE_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
LABEL_MODES = frozenset({"1", "L", "P"})
# Turned by 90 degrees, with or without a flip: height and width change places.
QUARTER_TURNS = frozenset({5, 6, 7, 8})

_ORIENTATION = 0x0112
# A PNG's signature; and that, the length and name of the first chunk, width, height and bits.
_PNG_START, _PNG_HEAD = 8, 25


class UnsuitableImageError(ValueError):
    """A whole file that would not be read as it is; the message names it, why, and the remedy."""


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file.

    Attributes:
        format: Pillow's name, such as ``"PNG"`` or ``"JPEG"``.
        mode: Pillow's name of the channels, such as ``"RGB"``.
        stored: (H, W) as in the file.
        orientation: EXIF's, 1 to 8; 1 is as stored.
        bits: of a sample of a PNG; 8 for other formats.
        ramp: whether it has a palette of greys other than 0, 1, 2, ...
    """

    format: str
    mode: str
    stored: tuple[int, int]
    orientation: int
    bits: int
    ramp: bool

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) as the image is shown."""
        return self.stored[::-1] if self.orientation in QUARTER_TURNS else self.stored

    @property
    def is_turned_unseen(self) -> bool:
        """Whether it is shown turned or flipped without another size: labels may not be."""
        return self.orientation != 1 and self.size == self.stored


@contextlib.contextmanager
def decoding(path: PathLike) -> Iterator[None]:
    """Turn whatever Pillow raises into one line that names the file.

    Raises:
        FileNotFoundError: there is no such file.
        UnsuitableImageError: it has more pixels than Pillow opens.
        ValueError: it cannot be opened or decoded; ``__cause__`` is Pillow's error.
    """
    try:
        yield
    except UnsuitableImageError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing: prepare the data set (longtail prepare) or set DETECTRON2_DATASETS"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels, limit = (int(n) for n in re.findall(r"\d+", str(error))[:2])
        raise UnsuitableImageError(
            f"{path} has {pixels / 1e6:.0f} megapixels, more than the {limit / 1e6:.0f} that are "
            "opened: scale it down, or cut it and its labels into tiles"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything from OSError to struct.error
        reason = " ".join((str(error) or type(error).__name__).split())
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"{path} cannot be opened ({reason})") from error
        raise ValueError(f"{path} cannot be read as an image ({reason}): fetch it again") from error


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[tuple[Image.Image, ImageHeader]]:
    """Open an image and read its header.

    Raises:
        FileNotFoundError, ValueError: as :func:`decoding`, also for what is done inside.
    """
    with decoding(path), PathManager.open(os.fspath(path), "rb") as file:
        head = file.read(_PNG_HEAD)
        file.seek(0)
        with Image.open(file) as image:
            if image.format == "PNG" and "exif" not in image.info and _has_chunk(file, b"eXIf"):
                image.load()  # only then are EXIF data known that stand behind the pixels
            yield image, _header(image, head)


def read_header(path: PathLike) -> ImageHeader:
    """Read the header of an image, without its pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, or is too large.
    """
    with opened(path) as (_, header):
        return header


def verify_checksums(path: PathLike) -> None:
    """Compare the checksums of a PNG with its content, which decoding does not do.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, is too large, or a checksum is wrong.
    """
    with decoding(path), PathManager.open(os.fspath(path), "rb") as file:
        Image.open(file).verify()


def check_image(path: PathLike, header: ImageHeader) -> None:
    """Refuse an image that would not keep its brightness.

    Raises:
        UnsuitableImageError: it has one channel of more than 8 bits, or another color space.
    """
    if header.mode not in IMAGE_MODES:
        raise UnsuitableImageError(
            f"{path} has mode {header.mode}, which does not become 8-bit RGB without losing the "
            "brighter values: convert it to 8 bits"
        )


def check_label_map(path: PathLike, header: ImageHeader) -> None:
    """Refuse a label map whose values would not be read as they are.

    Raises:
        UnsuitableImageError: it is not a PNG with one channel of at most 8 bits.
    """
    if header.mode not in LABEL_MODES:
        raise UnsuitableImageError(
            f"{path} has mode {header.mode}, but a label map has one 8-bit channel (L or P) with "
            "the class index of each pixel: convert it"
        )
    if header.format != "PNG":
        raise UnsuitableImageError(
            f"{path} is a {header.format}, but a label map is a PNG, which keeps every class index "
            "as it is: write it again as a PNG"
        )


def check_label_size(
    label_file: PathLike,
    label_size: tuple[int, int],
    image_file: PathLike,
    image: ImageHeader,
    remedy: str,
) -> None:
    """Compare a label map with its image: the one rule of all that reads both.

    Args:
        label_file: the label map.
        label_size: its (H, W), turned if it says so itself.
        image_file: the image.
        image: its header.
        remedy: what to do about another size, for the message.

    Raises:
        UnsuitableImageError: it does not have the size of the image as it is shown.
    """
    if label_size == image.size:
        return
    sizes = f"{label_file} has size {_shown(label_size)}, but its image {_shown(image.size)}"
    if label_size == image.stored:
        raise UnsuitableImageError(
            f"{sizes}, as its EXIF orientation {image.orientation} turns it ({image_file}): turn "
            "the label map likewise, or remove the orientation from the image"
        )
    raise UnsuitableImageError(f"{sizes} ({image_file}): {remedy}")


def check_annotated_size(
    image_file: PathLike, annotated: tuple[int, int], image: ImageHeader
) -> None:
    """Compare the size that annotations are made for with their image.

    Args:
        image_file: the image.
        annotated: the annotations' (H, W).
        image: the header of the image.

    Raises:
        UnsuitableImageError: the image, as it is shown, has another size.
    """
    if annotated == image.size:
        return
    sizes = (
        f"{image_file} has size {_shown(image.size)}, but its annotations are of one of "
        f"{_shown(annotated)}"
    )
    if annotated == image.stored:
        raise UnsuitableImageError(
            f"{sizes}, as it is before its EXIF orientation {image.orientation} turns it: turn the "
            "annotations likewise, or remove the orientation from the image"
        )
    raise UnsuitableImageError(f"{sizes}: take images and annotations from one source")


def _header(image: Image.Image, head: bytes) -> ImageHeader:
    width, height = image.size
    palette = image.palette.tobytes() if image.mode == "P" and image.palette else b""
    return ImageHeader(
        format=image.format,
        mode=image.mode,
        stored=(height, width),
        orientation=_orientation(image),
        bits=head[24] if image.format == "PNG" else 8,
        ramp=_is_ramp(palette),
    )


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _orientation(image: Image.Image) -> int:
    try:
        # Not the method of PNG, which decodes the image.
        value = Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:
        return 1  # damaged EXIF data, as detectron2 does
    return value if value in range(1, 9) else 1


def _is_ramp(palette: bytes) -> bool:
    greys = palette[::3]
    if not greys or greys != palette[1::3] or greys != palette[2::3]:
        return False
    return greys != bytes(range(len(greys)))


def _has_chunk(file: BinaryIO, name: bytes) -> bool:
    """Look for a chunk of a PNG, and leave the file's position as it was."""
    position = file.tell()
    try:
        file.seek(_PNG_START)
        while len(start := file.read(8)) == 8:
            length, found = struct.unpack(">I4s", start)
            if found == name:
                return True
            file.seek(length + 4, os.SEEK_CUR)  # its content and checksum
        return False
    finally:
        file.seek(position)
