"""Pictures of label maps: an image, its ground truth and predictions side by side.

Shapes: K classes, (H, W) image size. Colours are (red, green, blue), 0..255.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from longtail.evaluation.sem_seg.metrics import confusion_matrix, iou_from_confusion

# Share of the class colour in a painted pixel; the rest is the image in grey, whose edges stay
# visible without changing the hue that the legend shows.
_COLOR_SHARE = 0.75
_MARGIN = 8
_PAPER, _INK, _PALE_INK, _BLACK = (255, 255, 255), (20, 20, 20), (90, 90, 90), (0, 0, 0)

Color = Sequence[int]


class Column(NamedTuple):
    """One picture of a row."""

    name: str
    """First line of the caption."""
    image: np.ndarray
    """(H, W, 3) uint8."""
    note: str = ""
    """Second line of the caption."""


def colorize(labels: np.ndarray, colors: Sequence[Color], ignore_label: int = 255) -> np.ndarray:
    """A label map in the colours of its classes.

    Args:
        labels: (H, W) integers, values 0..K-1 or ``ignore_label``.
        colors: K colours.
        ignore_label: pixels with this label become black.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a label is out of range.
    """
    valid = labels != ignore_label
    known = labels[valid].astype(np.int64)
    wrong = known[(known < 0) | (known >= len(colors))]
    if wrong.size:
        raise ValueError(
            f"a label map has the value {wrong[0]}, expected 0..{len(colors) - 1} or "
            f"{ignore_label} (ignored): number its classes as the data set does"
        )
    painted = np.zeros((*labels.shape, 3), np.uint8)
    painted[valid] = np.asarray(colors, np.uint8)[known]
    return painted


def paint(
    image: np.ndarray, labels: np.ndarray, colors: Sequence[Color], ignore_label: int = 255
) -> np.ndarray:
    """The colours of a label map with the image shining through in grey.

    Args:
        image: (H, W, 3) uint8.
        labels, colors, ignore_label: as for :func:`colorize`.

    Returns:
        (H, W, 3) uint8: 3/4 colour and 1/4 grey image, black where ignored.

    Raises:
        ValueError: a label is out of range, or image and labels differ in size.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(
            f"a label map has size {labels.shape[1]}x{labels.shape[0]}, but its image "
            f"{image.shape[1]}x{image.shape[0]} (width x height): give one of the image's size"
        )
    painted = colorize(labels, colors, ignore_label)
    grey = image.mean(axis=2, keepdims=True)
    mixed = np.rint(_COLOR_SHARE * painted + (1 - _COLOR_SHARE) * grey).astype(np.uint8)
    return np.where((labels == ignore_label)[..., None], painted, mixed)


def score_note(
    prediction: np.ndarray, target: np.ndarray, num_classes: int, ignore_label: int = 255
) -> str:
    """Pixel accuracy and mIoU of one image as a caption.

    The mean is over the classes in the image's ground truth, see
    :func:`~longtail.evaluation.sem_seg.metrics.iou_from_confusion`.

    Args:
        prediction: (H, W) integers, values 0..K-1; ``ignore_label`` is counted as a wrong class.
        target: (H, W) integers, values 0..K-1 or ``ignore_label``.
        num_classes: K.
        ignore_label: pixels with this target are left out.

    Returns:
        Such as ``"acc 91.3 %, mIoU 60.2 %"``.

    Raises:
        ValueError: the shapes differ or a value is out of range.
    """
    none = num_classes  # one class more, which no target has
    prediction = np.where(prediction == ignore_label, none, prediction.astype(np.int64))
    scores = iou_from_confusion(
        confusion_matrix(
            torch.from_numpy(prediction),
            torch.from_numpy(target.astype(np.int64)),
            num_classes + 1,
            ignore_label,
        )
    )
    if np.isnan(scores.aacc):
        return "no labelled pixel"
    return f"acc {100 * scores.aacc:.1f} %, mIoU {100 * scores.miou:.1f} %"


def comparison(
    image: np.ndarray,
    target: np.ndarray | None,
    predictions: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[Color],
    ignore_label: int = 255,
) -> np.ndarray:
    """Image, ground truth and predictions side by side, with scores and a legend.

    Args:
        image: (H, W, 3) uint8, red, green, blue.
        target: (H, W) integers, values 0..K-1 or ``ignore_label``; without it, there is neither
            its column nor a score.
        predictions: label maps of the same kind by the name of their column.
        class_names: K names.
        colors: K colours.
        ignore_label: the label that stands for no class.

    Returns:
        (height, width, 3) uint8. The legend lists the classes of all label maps, the ones with
        most pixels first, and at the end the ignored pixels, if any.

    Raises:
        ValueError: neither a target nor a prediction, a label is out of range, or a label map is
            not of the image's size.
    """
    truth = {} if target is None else {"ground truth": target}
    if not truth and not predictions:
        raise ValueError("comparison needs a target or one or more predictions")
    columns = [Column("image", image)]
    for name, labels in [*truth.items(), *predictions.items()]:
        try:
            columns.append(Column(name, paint(image, labels, colors, ignore_label)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if target is not None:
        first = len(columns) - len(predictions)
        for index, labels in enumerate(predictions.values(), first):
            note = score_note(labels, target, len(colors), ignore_label)
            columns[index] = columns[index]._replace(note=note)
    maps = np.stack([*truth.values(), *predictions.values()])
    pixels = np.bincount(maps[maps != ignore_label], minlength=len(colors))
    present = [k for k in np.argsort(-pixels, kind="stable") if pixels[k]]
    legend = [(class_names[k], colors[k]) for k in present]
    if (maps == ignore_label).any():
        legend.append(("(ignored)", _BLACK))
    return side_by_side(columns, legend)


def side_by_side(columns: Sequence[Column], legend: Sequence[tuple[str, Color]]) -> np.ndarray:
    """A row of pictures, each under its caption, above a legend.

    Args:
        columns: at least one, with images of the same size.
        legend: names and colours, in the order of reading.

    Returns:
        (height, width, 3) uint8, on white. Columns are as wide as the images, or wider if a
        caption needs it.

    Raises:
        ValueError: no column, or images of different sizes.
    """
    shapes = {column.image.shape for column in columns}
    if len(shapes) != 1:
        raise ValueError(
            "side_by_side needs one or more images (H, W, 3) of the same size, got shapes "
            f"{sorted(shapes)}"
        )
    height, width, _ = shapes.pop()
    font = ImageFont.load_default(max(15, height // 22))
    line = sum(font.getmetrics()) + 2
    captions = [(column.name, column.note) for column in columns]
    cell = max(width, *(_text_width(font, text) for caption in captions for text in caption))
    caption_height = line * (2 if any(column.note for column in columns) else 1)
    top = 2 * _MARGIN + caption_height
    swatches = _LegendGrid(font, line, legend, (cell + _MARGIN) * len(columns) - _MARGIN)
    canvas = Image.new(
        "RGB",
        (swatches.width + 2 * _MARGIN, top + height + _MARGIN + swatches.height),
        _PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    for index, column in enumerate(columns):
        left = _MARGIN + index * (cell + _MARGIN)
        draw.text((left, _MARGIN), column.name, _INK, font)
        draw.text((left, _MARGIN + line), column.note, _PALE_INK, font)
        canvas.paste(Image.fromarray(column.image), (left, top))
    swatches.draw(draw, _MARGIN, top + height + _MARGIN)
    return np.asarray(canvas)


class _LegendGrid:
    """Swatches with names, in as many equal columns as fit into a width."""

    def __init__(
        self,
        font: ImageFont.FreeTypeFont,
        line: int,
        legend: Sequence[tuple[str, Color]],
        width: int,
    ) -> None:
        self._font, self._line, self._legend = font, line, legend
        names = [_text_width(font, name) for name, _ in legend]
        self._cell = max(names, default=0) + line + 2 * _MARGIN
        self.width = max(width, self._cell)
        self._per_row = self.width // self._cell
        rows = -(-len(legend) // self._per_row)
        self.height = rows * line + (_MARGIN if rows else 0)

    def draw(self, draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
        side = round(0.7 * self._line)
        inset = (self._line - side) // 2
        for index, (name, color) in enumerate(self._legend):
            x = left + index % self._per_row * self._cell
            y = top + index // self._per_row * self._line
            box = (x, y + inset, x + side, y + inset + side)
            draw.rectangle(box, fill=tuple(color), outline=_PALE_INK)
            draw.text((x + self._line, y), name, _INK, self._font)


def _text_width(font: ImageFont.FreeTypeFont, text: str) -> int:
    return int(np.ceil(font.getlength(text)))
