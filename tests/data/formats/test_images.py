# SPDX-License-Identifier: Apache-2.0
"""Images and label maps: samples that are written down here, bit by bit, come back."""

import io
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image, ImageCms

from longtail.data.formats.images import label_image, read_image, read_label_map
from tests.data.label_maps import save_labels
from tests.data.pngs import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, chunk, huge_png, name_of, png

PIXELS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 8, 7], [6, 5, 4], [3, 2, 1]]])
SAMPLES = {
    1: [[0, 1, 1, 0, 1], [1, 0, 0, 0, 1]],
    2: [[0, 1, 2, 3, 0], [3, 2, 1, 1, 2]],
    4: [[0, 1, 2, 3, 14], [15, 7, 8, 1, 0]],
    8: [[0, 1, 2, 17, 255], [254, 85, 34, 3, 128]],
}


@pytest.fixture
def path(tmp_path):
    Image.fromarray(PIXELS.astype(np.uint8)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_channels_in_the_order_of_the_format(path):
    rgb, bgr = read_image(path, "RGB"), read_image(path, "BGR")
    assert rgb.dtype == bgr.dtype == np.uint8
    assert rgb.tolist() == PIXELS.tolist()
    assert bgr[1].tolist() == [[7, 8, 9], [4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", SAMPLES)
@pytest.mark.parametrize("kind", [GREY, PALETTE])
def test_labels_are_the_samples(tmp_path, kind, bits, interlaced):
    """Whatever the bits; Pillow alone makes 85 of a grey 1 of 2 bits."""
    path = tmp_path / "labels.png"
    path.write_bytes(png(SAMPLES[bits], bits, kind, interlaced=interlaced))
    found = read_label_map(path)
    assert found.dtype == np.uint8 and found.tolist() == SAMPLES[bits]
    found[0, 0] = 5  # writable
    assert read_label_map(path, checksums=True).tolist() == SAMPLES[bits]
    image = label_image(path)
    assert image.size == (5, 2)
    counts = [sum(row.count(value) for row in SAMPLES[bits]) for value in range(256)]
    assert image.histogram() == counts


def test_what_changes_the_display_alone_changes_no_label(tmp_path):
    gamma = chunk(b"gAMA", (45455).to_bytes(4, "big"))
    kinds = (GREY, 2, b"\0\1"), (PALETTE, 2, b"\0\x80\xff"), (GREY, 8, b"\0\1")
    for kind, bits, transparency in kinds:
        content = png(SAMPLES[bits], bits, kind, before=gamma + chunk(b"tRNS", transparency))
        (tmp_path / "labels.png").write_bytes(content)
        assert read_label_map(tmp_path / "labels.png").tolist() == SAMPLES[bits]


GREYS = png(SAMPLES[8])
# Where the one chunk of pixels of GREYS begins, and where the last chunk does.
PIXELS_AT, END_AT = 33, len(GREYS) - 12


def flipped(place):
    content = bytearray(GREYS)
    content[place] ^= 0xFF
    return bytes(content)


def with_pixels(content):
    """GREYS with other compressed pixels, whose checksum is right."""
    return GREYS[:PIXELS_AT] + chunk(b"IDAT", content) + GREYS[END_AT:]


def animated(width):
    """An animation of one frame, which covers ``width`` of the 5 columns."""
    control = chunk(b"acTL", struct.pack(">II", 1, 0))
    frame = struct.pack(">IIIIIHHBB", 0, width, 2, 0, 0, 1, 1, 0, 0)
    return png(SAMPLES[8], before=control + chunk(b"fcTL", frame))


COMPRESSED = GREYS[PIXELS_AT + 8 : END_AT - 4]
ODD = {
    **{f"byte {place}": flipped(place) for place in (13, 30, *range(35, len(GREYS), 5))},
    "cut pixels": GREYS[: PIXELS_AT + 15] + GREYS[END_AT:],
    "no end": GREYS[:END_AT],
    "bytes behind the end": GREYS + b"\0\0\0\x09IEND",
    "a second file behind the end": GREYS + GREYS,
    "interlaced": png(SAMPLES[8], interlaced=True),
    "an animation": animated(5),
    "an animation of a smaller frame": animated(3),
    "colours of the screen": png(
        SAMPLES[8],
        before=chunk(
            b"iCCP",
            b"RGB\0\0"
            + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        ),
    ),
    "a palette of greys": png(SAMPLES[8], before=chunk(b"PLTE", bytes(6))),
    "gamma of nothing": png(SAMPLES[8], before=chunk(b"gAMA", bytes(4))),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_damaged_and_odd_labels_are_what_pillow_says(tmp_path, content, capfd):
    """Whichever library decodes them: an error, or Pillow's pixels; and nothing is printed."""
    path = tmp_path / "labels.png"
    path.write_bytes(content)
    try:
        expected = label_image(path)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            read_label_map(path)
    else:
        np.testing.assert_array_equal(read_label_map(path), np.array(expected))
    assert capfd.readouterr() == ("", "")


NOT_WHOLE = [
    with_pixels(content) for content in (COMPRESSED[:-8], COMPRESSED[:5], b"\xff" * 20, b"")
]
NOT_WHOLE += [with_pixels(COMPRESSED + b"more"), GREYS[:PIXELS_AT] + GREYS[END_AT:]]


@pytest.mark.parametrize("content", NOT_WHOLE, ids=len)
def test_compressed_pixels_that_are_not_whole_are_what_pillow_says(tmp_path, content):
    """Whose checksums are right: what wrote the file has made a mistake."""
    path = tmp_path / "labels.png"
    path.write_bytes(content)
    try:
        expected = np.array(label_image(path))
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            read_label_map(path)
    else:
        np.testing.assert_array_equal(read_label_map(path), expected)


@pytest.mark.parametrize("before", [b"", chunk(b"tIME", bytes([7, 224, 1, 2, 3, 4, 5]))], ids=len)
def test_plain_labels_are_read_in_the_faster_way(tmp_path, before, monkeypatch):
    path, decode, decoded = tmp_path / "labels.png", cv2.imdecode, []
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decoded.append(1) or decode(*given))
    path.write_bytes(png(SAMPLES[8], before=before))
    assert read_label_map(path).tolist() == SAMPLES[8]
    assert decoded == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png([[0, 1, 2]], 16), "has mode I;16, but a label map has one 8-bit channel"),
        (png([[0, 1, 2]], 8, RGB), "has mode RGB, but a label map has one 8-bit channel"),
        (png([[0, 1]], 8, GREY_ALPHA), "has mode LA, but a label map has one 8-bit channel"),
    ],
    ids=name_of,
)
def test_labels_that_would_not_be_read_as_they_are(tmp_path, content, message):
    path = tmp_path / "labels.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"labels.png {message}"):
        read_label_map(path)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "TIFF", "GIF"])
def test_labels_are_png_files_whatever_their_name(tmp_path, kind):
    """JPEG changes values, TIFF may be stored inverted."""
    path = tmp_path / "labels.png"
    Image.fromarray(np.full((4, 4), 3, np.uint8)).save(path, format=kind)
    with pytest.raises(ValueError, match=rf"labels\.png is a {kind}, but a label map is a PNG"):
        read_label_map(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # Greys of few bits are spread over 0..255, in an image of any kind.
        (png([[0, 1]], 1), [[0] * 3, [255] * 3]),
        (png([[0, 1, 2, 3]], 2), [[0] * 3, [85] * 3, [170] * 3, [255] * 3]),
        (png([[0, 1, 15]], 4), [[0] * 3, [17] * 3, [255] * 3]),
        (png([[1, 0]], 2, PALETTE, colors=[9, 8, 7, 6, 5, 4] + 6 * [0]), [[6, 5, 4], [9, 8, 7]]),
        # An alpha channel is dropped: the colors are those under it.
        (png([[200, 0, 100, 255]], 8, GREY_ALPHA), [[200] * 3, [100] * 3]),
        (png([[200, 90, 80, 0]], 8, RGBA), [[200, 90, 80]]),
        # Of 16 bits a channel, the upper eight.
        (png([[0xABCD, 0x0102, 0xFFFF]], 16, RGB), [[0xAB, 0x01, 0xFF]]),
    ],
    ids=name_of,
)
def test_colors(tmp_path, content, expected):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    assert read_image(path, "RGB").tolist() == [expected]
    assert detection_utils.read_image(str(path), "RGB").tolist() == [expected]


def float_tiff():
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2), 300, np.float32)).save(file, format="TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "mode"),
    [(png([[0, 255, 256, 65535]], 16), "I;16"), (float_tiff(), "F")],
    ids=name_of,
)
def test_images_that_would_be_cut_off_at_255(tmp_path, content, mode):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"image\.png has mode {mode}, .*: convert it to 8 bits"):
        read_image(tmp_path / "image.png", "RGB")


@pytest.mark.parametrize("read", [read_label_map, lambda path: read_image(path, "RGB")])
def test_damaged_and_missing_files(path, read):
    save_labels(path, np.zeros((20, 30)))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"image\.png cannot be read as an image") as error:
        read(path)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"image\.png is missing"):
        read(path)
    path.mkdir()
    with pytest.raises(ValueError, match=r"image\.png cannot be opened \(.*directory"):
        read(path)


@pytest.mark.parametrize("read", [read_label_map, lambda path: read_image(path, "RGB")])
@pytest.mark.parametrize("action", ["default", "error"])
def test_an_image_that_is_too_large(path, read, action, recwarn):
    """196 megapixels are refused; half of them, where warnings are errors."""
    import warnings

    path.write_bytes(huge_png(14000, 14000 if action == "default" else 7000))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        match = rf"image\.png has {196 if action == 'default' else 98} megapixels, .*scale it down"
        with pytest.raises(ValueError, match=match) as error:
            read(path)
    assert "fetch it again" not in str(error.value)


@pytest.fixture(scope="module")
def coloured():
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return coarse.resize((237, 181), Image.Resampling.BICUBIC)


JPEGS = {
    "half the colours": {"subsampling": 2, "quality": 75},
    "all colours": {"subsampling": 0, "quality": 95},
    "progressive": {"progressive": True},
    "coarse": {"quality": 5},
    "stored as RGB": {"keep_rgb": True},
    "of a camera": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"},
}


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_jpegs_are_what_detectron2_reads(tmp_path, coloured, options, channels):
    """Value for value, whichever library decodes them."""
    path = tmp_path / "image.jpg"
    coloured.save(path, **options)
    expected = detection_utils.read_image(str(path), channels)
    np.testing.assert_array_equal(read_image(path, channels), expected)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_colours(tmp_path, coloured, mode):
    path = tmp_path / "image.jpg"
    coloured.convert(mode).save(path)
    expected = detection_utils.read_image(str(path), "RGB")
    np.testing.assert_array_equal(read_image(path, "RGB"), expected)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.999])
def test_a_jpeg_that_is_cut_short_is_refused(tmp_path, coloured, part):
    """OpenCV would fill the rest with grey."""
    path = tmp_path / "image.jpg"
    coloured.save(path, quality=95)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=r"image\.jpg cannot be read as an image"):
        read_image(path, "RGB")
