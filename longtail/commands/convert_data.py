# SPDX-License-Identifier: Apache-2.0
"""Convert annotations of other tools: Pascal VOC's XML, YOLO's text, label maps in colours.

    longtail convert-data voc --labels Annotations --images JPEGImages --output train.json
    longtail convert-data yolo --labels labels/train --images images/train \
        --classes data.yaml --output train.json
    longtail convert-data colors --labels SegmentationClass --colors colors.yaml --output labels

The first two write COCO's JSON, the last one PNG files with the index of each pixel's class. At
the end stand the number of images and objects (or pixels) of each class, and a picture to look at,
beside the output. How to train on it: docs/own_data.md.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.utils.command_line import command_parser
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    import numpy as np

# Images of the picture.
PICTURED = 6


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("convert-data", __doc__)
    formats = parser.add_subparsers(
        dest="format", required=True, metavar="FORMAT", help="of what there is"
    )
    for name, what in (
        ("voc", "Pascal VOC's XML files"),
        ("yolo", "YOLO's text files"),
        ("colors", "label maps in colours"),
    ):
        own = formats.add_parser(name, help=what)
        own.add_argument("--labels", required=True, metavar="DIR", help=f"folder of {what}")
        if name == "colors":
            own.add_argument(
                "--colors",
                required=True,
                metavar="FILE",
                help="YAML: 'classes:' with a colour each, [128, 64, 128] or '#804080' (or a "
                "number each, of label maps with other numbers), and a list 'ignore:' of others",
            )
            own.add_argument("--output", required=True, metavar="DIR", help="folder to write")
            continue
        own.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
        own.add_argument(
            "--classes",
            required=name == "yolo",
            metavar="FILE",
            help="names of the classes in their order: a text file, YAML with 'names', or the JSON "
            "of another split" + (" (default: those that occur)" if name == "voc" else ""),
        )
        own.add_argument("--output", required=True, metavar="FILE", help="JSON file to write")
    return parser


def convert_boxes(options: argparse.Namespace) -> None:
    """Convert to COCO's JSON; print the counts, and draw some images.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    from tabulate import tabulate

    from longtail.data.convert.boxes import class_counts, coco_document, read_class_names
    from longtail.data.convert.voc import read_voc
    from longtail.data.convert.yolo import read_yolo
    from longtail.data.formats.lvis_writer import write_document

    if not options.output.lower().endswith(".json"):
        raise ValueError(f"--output {options.output}: name a file that ends with .json")
    classes = read_class_names(options.classes) if options.classes else []
    if options.format == "voc":
        images = read_voc(options.labels, options.images)
        classes = classes or sorted({item.name for image in images for item in image.objects})
        if not classes:
            raise ValueError(f"{options.labels} has no object in {len(images)} files")
    else:
        images = read_yolo(options.labels, options.images, classes)
    document = coco_document(images, classes)
    write_document(options.output, document)
    print(tabulate(class_counts(document), ["class", "images", "objects"]))
    objects = sum(len(image.objects) for image in images)
    empty, crowds = (
        objects - len(document["annotations"]),
        sum(item["iscrowd"] for item in document["annotations"]),
    )
    print(
        f"\n{options.output}: {len(images)} images, {objects - empty} objects of {len(classes)} "
        f"classes, {crowds} of them difficult (not counted), {empty} without area left out"
    )
    _draw_boxes(options, document, classes)


def _draw_boxes(options: argparse.Namespace, document: dict, classes: Sequence[str]) -> None:
    import numpy as np

    from longtail.data.datasets.register import class_colors
    from longtail.data.formats.images import read_image
    from longtail.visualization.instances import draw_objects
    from longtail.visualization.predictions import Objects

    items: dict[int, list[dict]] = {}
    for item in document["annotations"]:
        items.setdefault(item["image_id"], []).append(item)
    shown = [image for image in document["images"] if image["id"] in items][:PICTURED]
    pictures = []
    for image in shown:
        own = items[image["id"]]
        boxes = np.array([item["bbox"] for item in own], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        objects = Objects(np.array([item["category_id"] - 1 for item in own]), boxes)
        pixels = read_image(os.path.join(options.images, image["file_name"]), "RGB")
        picture = draw_objects(pixels, objects, classes, class_colors(len(classes)))
        pictures.append((image["file_name"], picture))
    _write_sheet(Path(options.output).with_suffix(".png"), pictures)


def _write_sheet(path: Path, pictures: "Sequence[tuple[str, np.ndarray]]") -> None:
    from PIL import Image

    from longtail.utils.io import atomic_write
    from longtail.visualization.writing import contact_sheet

    if not pictures:
        return
    sheet = contact_sheet([(name, Image.fromarray(picture)) for name, picture in pictures])
    with atomic_write(path, "wb") as file:
        Image.fromarray(sheet).save(file, format="PNG")
    print(f"look at {path}")


def convert_label_maps(options: argparse.Namespace) -> None:
    """Convert label maps; print the counts, and paint some.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    from tabulate import tabulate

    from longtail.data.convert.colors import convert_colors, read_color_table
    from longtail.data.datasets.files import files_by_stem
    from longtail.data.datasets.register import class_colors
    from longtail.data.formats.images import read_label_map
    from longtail.visualization.painting import colorize

    table = read_color_table(options.colors)
    pixels, images = convert_colors(options.labels, table, options.output)
    rows = zip(table.classes, pixels.tolist(), images.tolist(), strict=True)
    print(tabulate(list(rows), ["class", "pixels", "images"]))
    files = files_by_stem(options.output, (".png",), sub_folders=True)
    colors = class_colors(len(table.classes))
    pictures = [
        (name, colorize(read_label_map(path), colors))
        for name, path in list(files.items())[:PICTURED]
    ]
    print(f"\n{options.output}: {len(files)} label maps, names of the classes in classes.txt")
    _write_sheet(Path(f"{options.output.rstrip('/')}.png"), pictures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        (convert_label_maps if options.format == "colors" else convert_boxes)(options)
