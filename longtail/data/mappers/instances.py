# SPDX-License-Identifier: Apache-2.0
"""From data set records to model inputs, for detection: detectron2's, behind the one reader."""

from typing import Any

from detectron2.data import DatasetMapper

from longtail.data.formats.headers import (
    ImageHeader,
    UnsuitableImageError,
    check_image,
    decoding,
    read_header,
)


class InstanceDatasetMapper(DatasetMapper):
    """detectron2's mapper, for files that it reads as they are; errors name the file."""

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: in detectron2's format.

        Returns:
            As detectron2's mapper.

        Raises:
            FileNotFoundError: a file of the record is missing.
            ValueError: a file is not an image, cannot be read as it is, or has another size than
                the record says.
        """
        file = record["file_name"]
        header = read_header(file)
        check_image(file, header)
        check_record_size(record, header)
        if "sem_seg_file_name" in record:
            _check_gray(record["sem_seg_file_name"])
        try:
            return super().__call__(record)
        except (OSError, SyntaxError, EOFError) as error:  # annotations raise others
            with decoding(file):
                raise error


def check_record_size(record: dict[str, Any], image: ImageHeader) -> None:
    """Compare the size that a record has from its annotations with its image.

    Args:
        record: with ``file_name``, and ``height`` and ``width`` where they are known.
        image: the header of its file.

    Raises:
        UnsuitableImageError: the image, as it is shown, has another size.
    """
    if "height" not in record or "width" not in record:
        return
    annotated = (record["height"], record["width"])
    if annotated == image.size:
        return
    sizes = (
        f"{record['file_name']} is {image.size[1]}x{image.size[0]} (width x height), but its "
        f"annotations are of an image of {annotated[1]}x{annotated[0]}"
    )
    if annotated == image.stored:
        raise UnsuitableImageError(
            f"{sizes}, as it is before its EXIF orientation {image.orientation} turns it: remove "
            "the orientation from the image, or turn the annotations"
        )
    raise UnsuitableImageError(f"{sizes}: take images and annotations from one source")


def _check_gray(label_file: str) -> None:
    """Refuse a label map that detectron2's conversion to grey would change."""
    header = read_header(label_file)
    if (header.format, header.mode, header.bits) != ("PNG", "L", 8):
        raise UnsuitableImageError(
            f"{label_file} is a {header.format} of mode {header.mode} with {header.bits} bits, but "
            "detectron2's mapper reads 8-bit grey PNGs alone as they are: convert it"
        )
