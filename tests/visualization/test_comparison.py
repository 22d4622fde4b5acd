"""Pictures of label maps against plain loops and values derived by hand."""

import numpy as np
import pytest

from longtail.visualization.comparison import (
    Column,
    colorize,
    comparison,
    paint,
    score_note,
    side_by_side,
)

COLORS = [(200, 10, 20), (30, 190, 40), (50, 60, 180)]
NAMES = ["wall", "tree", "bus"]
IGNORED = 255


def random_image(seed: int = 0, size: tuple[int, int] = (24, 40)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def random_labels(seed: int = 1, size: tuple[int, int] = (24, 40)) -> np.ndarray:
    values = np.array([0, 1, 2, IGNORED], np.uint8)
    return np.random.default_rng(seed).choice(values, size)


def positions(picture: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of every place where ``part`` is in ``picture``, pixel by pixel."""
    height, width, _ = part.shape
    starts = (picture == part[0, 0]).all(axis=2)
    return [
        (int(y), int(x))
        for y, x in np.argwhere(starts)
        if np.array_equal(picture[y : y + height, x : x + width], part)
    ]


def swatches_from_left(picture: np.ndarray, colors: list[tuple[int, int, int]]) -> list:
    """The colours that occur in the last quarter of the rows, in the order of their columns."""
    legend = picture[-picture.shape[0] // 4 :]
    first = {c: np.flatnonzero((legend == c).all(axis=2).any(axis=0)) for c in colors}
    return sorted((c for c in colors if len(first[c])), key=lambda c: first[c][0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_colorize_takes_each_pixels_class_and_leaves_ignored_ones_black(dtype):
    labels = random_labels().astype(dtype)
    painted = colorize(labels, COLORS)
    assert painted.dtype == np.uint8
    for y, x in np.ndindex(labels.shape):
        expected = (0, 0, 0) if labels[y, x] == IGNORED else COLORS[labels[y, x]]
        assert tuple(painted[y, x]) == expected


def test_colorize_knows_other_ignore_labels():
    painted = colorize(np.array([[-1, 2]]), COLORS, ignore_label=-1)
    assert painted.tolist() == [[[0, 0, 0], list(COLORS[2])]]


@pytest.mark.parametrize("value", [3, -1, 254])
def test_colorize_names_a_label_out_of_range(value):
    with pytest.raises(ValueError, match=rf"value {value}, expected 0\.\.2 or 255"):
        colorize(np.array([[0, value]]), COLORS)


def test_paint_is_three_quarters_colour_and_one_quarter_grey_image():
    image, labels = random_image(), random_labels()
    painted = paint(image, labels, COLORS)
    for y, x in np.ndindex(labels.shape):
        grey = sum(float(v) for v in image[y, x]) / 3
        expected = np.zeros(3)
        if labels[y, x] != IGNORED:
            expected = 0.75 * np.array(COLORS[labels[y, x]]) + 0.25 * grey
        # Rounding to whole numbers moves a value by at most 1/2.
        np.testing.assert_allclose(painted[y, x], expected, rtol=0, atol=0.5 + 1e-9)


def test_paint_refuses_labels_of_another_size():
    with pytest.raises(ValueError, match="size 39x24, but its image 40x24"):
        paint(random_image(), random_labels(size=(24, 39)), COLORS)


def test_score_note_by_hand():
    # 3 labelled pixels, 2 right. wall: 1 of (2 + 0), tree: 1 of (1 + 1): both IoU 1/2.
    target = np.array([[0, 0, 1, IGNORED]], np.uint8)
    prediction = np.array([[0, 1, 1, 2]], np.uint8)
    assert score_note(prediction, target, 3) == "acc 66.7 %, mIoU 50.0 %"


def test_score_note_counts_an_ignored_prediction_as_wrong():
    # wall: 1 right of 2; tree: 1 of 1. The pixel without a prediction is no false tree.
    target = np.array([[0, 0, 1]], np.uint8)
    prediction = np.array([[0, IGNORED, 1]], np.uint8)
    assert score_note(prediction, target, 3) == "acc 66.7 %, mIoU 75.0 %"


def test_score_note_without_labelled_pixels():
    target = np.full((2, 2), IGNORED, np.uint8)
    assert score_note(np.zeros((2, 2), np.uint8), target, 3) == "no labelled pixel"


def test_side_by_side_shows_every_image_whole_from_left_to_right():
    images = [random_image(seed) for seed in range(3)]
    columns = [Column(f"column {i}", image, "a note") for i, image in enumerate(images)]
    picture = side_by_side(columns, list(zip(NAMES, COLORS, strict=True)))
    places = [positions(picture, image) for image in images]
    assert [len(place) for place in places] == [1, 1, 1]
    rows, lefts = zip(*(place[0] for place in places), strict=True)
    assert len(set(rows)) == 1
    assert all(a + 40 <= b for a, b in zip(lefts, lefts[1:], strict=False))


def test_captions_are_written_above_and_make_columns_wider():
    narrow = side_by_side([Column("a", random_image())], [])
    wide = side_by_side([Column("a name that is longer than the image", random_image())], [])
    assert wide.shape[0] == narrow.shape[0]
    assert wide.shape[1] > narrow.shape[1]
    top, _ = positions(wide, random_image())[0]
    assert (wide[:top] < 100).all(axis=2).any()


def test_a_long_legend_grows_downwards():
    image = random_image(size=(100, 300))
    legend = [(f"class number {i}", COLORS[i % 3]) for i in range(40)]
    short = side_by_side([Column("image", image)], legend[:1])
    long = side_by_side([Column("image", image)], legend)
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0]


def test_a_legend_entry_wider_than_the_images_fits():
    columns = [Column("image", random_image())]
    bare = side_by_side(columns, [])
    picture = side_by_side(columns, [("escalator, moving staircase, moving stairway", COLORS[0])])
    assert picture.shape[1] > bare.shape[1]
    assert (picture[:, -8:] == 255).all()  # the margin, nothing is cut


@pytest.mark.parametrize("images", [[], [random_image(), random_image(size=(24, 41))]])
def test_side_by_side_needs_images_of_one_size(images):
    with pytest.raises(ValueError, match="images .* of the same size"):
        side_by_side([Column("a", image) for image in images], [])


def test_comparison_has_image_ground_truth_and_predictions_in_this_order():
    image, target = random_image(), random_labels(1)
    predictions = {"one": random_labels(2), "two": random_labels(3)}
    picture = comparison(image, target, predictions, NAMES, COLORS)
    parts = [image] + [paint(image, m, COLORS) for m in (target, *predictions.values())]
    lefts = [positions(picture, part)[0][1] for part in parts]
    assert lefts == sorted(set(lefts))


def test_comparison_without_ground_truth():
    image, target, prediction = random_image(), random_labels(1), random_labels(2)
    picture = comparison(image, None, {"one": prediction}, NAMES, COLORS)
    assert len(positions(picture, paint(image, prediction, COLORS))) == 1
    assert not positions(picture, paint(image, target, COLORS))


def test_legend_lists_the_classes_present_by_area_and_ignored_pixels_last():
    image = random_image(size=(80, 400))
    labels = np.full((80, 400), IGNORED, np.uint8)
    labels[0, :10], labels[1, :20] = 0, 2
    picture = comparison(image, labels, {}, NAMES, COLORS)
    shown = swatches_from_left(picture, COLORS)
    assert shown == [COLORS[2], COLORS[0]]
    labels[0, :30] = 0
    picture = comparison(image, labels, {}, NAMES, COLORS)
    assert swatches_from_left(picture, COLORS) == [COLORS[0], COLORS[2]]
    black = (0, 0, 0)
    assert swatches_from_left(picture, [*COLORS, black])[-1] == black


def test_comparison_names_the_column_that_is_wrong():
    image, target = random_image(), random_labels()
    with pytest.raises(ValueError, match="^mine: .*value 7"):
        comparison(image, target, {"mine": np.full((24, 40), 7)}, NAMES, COLORS)
    with pytest.raises(ValueError, match="^ground truth: .*size 4x4"):
        comparison(image, np.zeros((4, 4), np.uint8), {}, NAMES, COLORS)
    with pytest.raises(ValueError, match="needs a target or one or more predictions"):
        comparison(image, None, {}, NAMES, COLORS)
