# SPDX-License-Identifier: Apache-2.0
"""From data set records to model inputs, for detection: detectron2's, behind the one reader."""

from typing import Any

from detectron2.data import DatasetMapper

from longtail.data.formats.headers import (
    UnsuitableImageError,
    check_annotated_size,
    check_image,
    decoding,
    read_header,
)
from longtail.data.formats.images import warn_of_unseen_turn


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
        if "height" in record and "width" in record:
            check_annotated_size(file, (record["height"], record["width"]), header)
            warn_of_unseen_turn(file, header)
        if "sem_seg_file_name" in record:
            _check_gray(record["sem_seg_file_name"])
        try:
            return super().__call__(record)
        except (OSError, SyntaxError, EOFError) as error:  # annotations raise others
            with decoding(file):
                raise error


def _check_gray(label_file: str) -> None:
    """Refuse a label map that detectron2's conversion to grey would change."""
    header = read_header(label_file)
    if (header.format, header.mode, header.bits) != ("PNG", "L", 8):
        raise UnsuitableImageError(
            f"{label_file} is a {header.format} of mode {header.mode} with {header.bits} bits, but "
            "detectron2's mapper reads 8-bit grey PNGs alone as they are: convert it"
        )
