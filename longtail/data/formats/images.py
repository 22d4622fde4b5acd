# SPDX-License-Identifier: Apache-2.0
"""Reading images and label maps: the one place, with errors that name the file and the fix.

Values are those of the file, whatever its bit depth; what cannot be read so is refused.

H, W: height and width of an image.
"""

import logging
import os
import struct
import zlib

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from PIL import Image

from longtail.data.formats.headers import (
    ImageHeader,
    PathLike,
    check_image,
    check_label_map,
    check_label_size,
    opened,
    read_header,
    verify_checksums,
)

logger = logging.getLogger(__name__)

# How an image is turned that has an EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow stretches grey PNGs of 1, 2 and 4 bits to 0..255, by these factors.
_STRETCHED = {1: 255, 2: 85, 4: 17}
# How much smaller OpenCV decodes a JPEG, and its flag, which is added to that of the colours.
_REDUCTIONS = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
# The last two bytes of a JPEG that is whole.
_JPEG_END = b"\xff\xd9"
# Chunks of a PNG that libpng, which OpenCV decodes with, has nothing to say about on stderr.
_SILENT_CHUNKS = frozenset({b"IHDR", b"IDAT", b"tIME", b"IEND"})
# Folders whose flipped images have been warned of.
_TOLD: set[str] = set()


def read_image(path: PathLike, image_format: str) -> np.ndarray:
    """Read an image as detectron2 does, turned as its EXIF data says.

    Colors are as stored: an alpha channel is dropped; of 16 bits a channel the upper 8 are kept.

    Args:
        path: an image file.
        image_format: ``"RGB"`` or ``"BGR"``.

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, is cut short or too large, or is grey with over 8 bits.
    """
    return _read_image(path, image_format)[0]


def read_reduced(path: PathLike, image_format: str, shrinking: float) -> tuple[np.ndarray, int]:
    """Read an image that will be shrunk, decoded at a half, a quarter or an eighth of its size.

    The decoder of JPEGs computes an r-th of the pixels a side from the low frequencies of each
    block, which costs less. Pixel i of a row stands for the pixels r i .. r i + r - 1 of the image;
    where r does not divide a side, the last one lies in part outside of it. Other files than RGB
    JPEGs that are shown as they are stored are read in full.

    Args:
        path: an image file.
        image_format: ``"RGB"`` or ``"BGR"``.
        shrinking: by which the side that shrinks least will be divided; below 2 nothing changes.

    Returns:
        (ceil(H / r), ceil(W / r), 3) uint8 and r, the largest of 1, 2, 4, 8 up to ``shrinking``, or
        1 for a file that is read in full.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_image`.
    """
    reduction = max(r for r in _REDUCTIONS if r <= max(shrinking, 1))
    pixels, header = _read_image(path, image_format, reduction)
    return pixels, 1 if pixels.shape[:2] == header.size else reduction


def read_label_map(path: PathLike, *, checksums: bool = False) -> np.ndarray:
    """Read a label map: of a palette the indices, of greys the samples, also of 1, 2 or 4 bits.

    detectron2 reads labels through a conversion to grey, which changes palette indices, and Pillow
    stretches samples of few bits to 0..255.

    Args:
        path: a PNG with one channel of at most 8 bits. EXIF data of its own turn it.
        checksums: whether those of the file are verified, which decoding does not do.

    Returns:
        (H, W) uint8, writable.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, is cut short, or would not be read value for value.
    """
    if checksums:
        verify_checksums(path)
    return _read_labels(path)[0]


def label_image(path: PathLike) -> Image.Image:
    """Read a label map as an image of mode L or P; otherwise as :func:`read_label_map`."""
    with opened(path) as (image, header):
        check_label_map(path, header)
        return _loaded_labels(image, header)


def _loaded_labels(image: Image.Image, header: ImageHeader) -> Image.Image:
    image.load()
    if header.mode != "P" and header.bits in _STRETCHED:
        factor = _STRETCHED[header.bits]
        image = image.convert("L").point([value // factor for value in range(256)])
    return _turned(image, header)


def _read_labels(path: PathLike) -> tuple[np.ndarray, ImageHeader]:
    with opened(path) as (image, header):
        check_label_map(path, header)
        labels = _decoded_grey_png(image, header)
        if labels is None:
            labels = np.array(_loaded_labels(image, header))
        return labels, header


def _decoded_grey_png(image: Image.Image, header: ImageHeader) -> np.ndarray | None:
    """Decode a plain PNG of 8-bit greys by OpenCV: the same values, in less time.

    What is not whole is left to Pillow, and its message; so are other chunks, animations among
    them, and what Pillow has loaded to find EXIF data, after which it has no file.
    """
    plain = (header.format, header.mode, header.bits, header.orientation) == ("PNG", "L", 8, 1)
    if not plain or image.fp is None:
        return None
    image.fp.seek(0)
    data = image.fp.read()
    if not _is_plain_and_whole(data):
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


def _is_plain_and_whole(png: bytes) -> bool:
    """Tell whether a PNG has silent chunks alone, with their checksums, and all of them."""
    place, name = 8, b""
    while name != b"IEND" and place + 12 <= len(png):
        length, name = struct.unpack_from(">I4s", png, place)
        end = place + 8 + length
        checksum = zlib.crc32(png[place + 4 : end]).to_bytes(4, "big")
        if name not in _SILENT_CHUNKS or png[end : end + 4] != checksum:
            return False
        place = end + 4
    return name == b"IEND"


def read_pair(
    image_file: PathLike, label_file: PathLike, image_format: str, remedy: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read an image and its label map, which has the size of the image as it is shown.

    A warning names the first image of a folder that is turned or flipped without another size: the
    labels may have been drawn on the image as it is stored.

    Args:
        image_file: as for :func:`read_image`.
        label_file: as for :func:`read_label_map`.
        image_format: ``"RGB"`` or ``"BGR"``.
        remedy: what to do where the sizes differ, for the message.

    Returns:
        (H, W, 3) uint8 and (H, W) uint8.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read as it is, or the sizes differ.
    """
    image, header = _read_image(image_file, image_format)
    return image, _labels_of(image_file, header, label_file, remedy)


def read_labels_of(image_file: PathLike, label_file: PathLike, remedy: str) -> np.ndarray:
    """Read the label map of an image, of which only the header is read.

    Args:
        image_file: as for :func:`read_image`.
        label_file: as for :func:`read_label_map`.
        remedy: what to do where the sizes differ, for the message.

    Returns:
        (H, W) uint8, of the size of the image as it is shown.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_pair`, but for what only decoding finds.
    """
    header = read_header(image_file)
    check_image(image_file, header)
    return _labels_of(image_file, header, label_file, remedy)


def _labels_of(
    image_file: PathLike, header: ImageHeader, label_file: PathLike, remedy: str
) -> np.ndarray:
    labels, label_header = _read_labels(label_file)
    check_label_size(label_file, label_header.size, image_file, header, remedy)
    if label_header.orientation == 1:
        warn_of_unseen_turn(image_file, header)
    return labels


def warn_of_unseen_turn(image_file: PathLike, header: ImageHeader) -> None:
    """Say, once for each folder, that sizes do not show whether labels fit a turned image.

    Args:
        image_file: the image.
        header: its header.
    """
    folder = os.path.dirname(image_file)
    if header.is_turned_unseen and folder not in _TOLD:
        _TOLD.add(folder)
        logger.warning(
            f"{image_file} is shown turned or flipped, by its EXIF data: its labels are taken to "
            "be those of the image as it is shown ('longtail check' finds all of these)"
        )


def check_whole_image(path: PathLike) -> ImageHeader:
    """Read the header of an image, and check that the file is whole.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_image`.
    """
    with opened(path) as (image, header):
        check_image(path, header)
        if header.format != "PNG":
            # A JPEG is decoded at an eighth of its size: this notices a file that was cut short
            # at a fraction of the time.
            image.draft("RGB", tuple(max(side // 8, 1) for side in image.size))
            image.load()
    if header.format == "PNG":
        verify_checksums(path)
    return header


def _read_image(
    path: PathLike, image_format: str, reduction: int = 1
) -> tuple[np.ndarray, ImageHeader]:
    with opened(path) as (image, header):
        check_image(path, header)
        pixels = _decoded_jpeg(image, header, image_format, reduction)
        if pixels is None:
            image.load()
            pixels = utils.convert_PIL_to_numpy(_turned(image, header), image_format)
        return pixels, header


def _decoded_jpeg(
    image: Image.Image, header: ImageHeader, image_format: str, reduction: int
) -> np.ndarray | None:
    """Decode a plain JPEG by OpenCV: the same values by the same library, in less time.

    A file that is cut short, which some versions fill with grey in silence, is left to Pillow.
    """
    plain = (header.format, header.mode, header.orientation) == ("JPEG", "RGB", 1)
    if not plain or image_format not in ("RGB", "BGR"):
        return None
    image.fp.seek(0)
    data = image.fp.read()
    if not data.endswith(_JPEG_END):
        return None
    colours = cv2.IMREAD_COLOR_RGB if image_format == "RGB" else cv2.IMREAD_COLOR
    flags = colours | _REDUCTIONS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    # A file may have a second header, which one of the libraries follows; Pillow decides.
    expected = tuple(-(-side // reduction) for side in header.stored)
    return pixels if pixels is not None and pixels.shape[:2] == expected else None


def _turned(image: Image.Image, header: ImageHeader) -> Image.Image:
    turn = _TURNS.get(header.orientation)
    return image if turn is None else image.transpose(turn)
