# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC's XML: a file an image, boxes in pixels from 1 on, both ends inside."""

import os
from xml.etree.ElementTree import Element

from longtail.data.convert.boxes import LabeledImage, LabeledObject, clipped_box
from longtail.data.datasets.files import IMAGE_SUFFIXES, files_by_stem
from longtail.data.formats.headers import check_annotated_size, check_image, read_header
from longtail.utils.errors import one_line

# An image with ten thousand objects takes two megabytes.
MAX_BYTES = 20_000_000


def read_voc(annotations: str, images: str) -> list[LabeledImage]:
    """Read all XML files of a folder and of its sub-folders.

    Objects that are marked ``difficult`` become crowds: VOC's metrics leave them out, too.

    Args:
        annotations: the folder of the XML files.
        images: the folder of the images, which have the names of their XML files.

    Raises:
        ValueError: a file is not VOC's XML, defines entities, or is of another size than its
            image; or there is none.
        FileNotFoundError: a folder or an image is missing.
    """
    for folder in (annotations, images):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"the folder {folder} does not exist")
    by_stem = files_by_stem(images, IMAGE_SUFFIXES, sub_folders=True)
    found = files_by_stem(annotations, (".xml",), sub_folders=True)
    if not found:
        raise ValueError(f"{annotations} has no .xml file")
    if absent := [stem for stem in found if stem not in by_stem]:
        raise FileNotFoundError(
            f"{len(absent)} of {len(found)} annotated images are not in {images} (such as "
            f"{absent[0]})"
        )
    return [_labeled(path, by_stem[stem], images) for stem, path in found.items()]


def parse_xml(path: str) -> Element:
    """Parse a file of somebody's: entities, which may grow without limit, are refused.

    Raises:
        ValueError: it is not XML, is too large, or has a document type or entities.
    """
    # Only whoever converts needs it.
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, parse

    if os.path.getsize(path) > MAX_BYTES:
        raise ValueError(f"{path} has over {MAX_BYTES // 10**6} MB: it is not of one image")
    try:
        return parse(path, forbid_dtd=True).getroot()
    except DefusedXmlException as error:
        raise ValueError(
            f"{path} defines a document type or entities ({type(error).__name__}), which no "
            "annotation needs: it is refused"
        ) from None
    except (ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is not XML ({one_line(error)}): write it again") from None


def _labeled(path: str, image: str, folder: str) -> LabeledImage:
    root = parse_xml(path)
    header = read_header(image)
    check_image(image, header)
    size = root.find("size")
    # Some tools write zeros.
    if size is not None and (
        written := (_number(size, "height", path), _number(size, "width", path))
    ) != (0, 0):
        check_annotated_size(image, (round(written[0]), round(written[1])), header)
    objects = []
    for item in root.iter("object"):
        name, box = (item.findtext("name") or "").strip(), item.find("bndbox")
        if not name or box is None:
            raise ValueError(f"{path}: an object has no name or no bndbox")
        x0, y0, x1, y1 = (_number(box, key, path) for key in ("xmin", "ymin", "xmax", "ymax"))
        objects.append(
            LabeledObject(
                name,
                clipped_box(x0 - 1, y0 - 1, x1, y1, header.size),
                crowd=(item.findtext("difficult") or "0").strip() == "1",
            )
        )
    return LabeledImage(os.path.relpath(image, folder).replace(os.sep, "/"), header.size, objects)


def _number(parent: Element, key: str, path: str) -> float:
    text = parent.findtext(key)
    try:
        value = float(text)
        if abs(value) < 1e6:
            return value
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{path}: {key} must be a number of pixels, got {text!r:.40}")
