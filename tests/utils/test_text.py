# SPDX-License-Identifier: Apache-2.0
"""Byte order marks, cells of CSV files, names of files: bytes and characters written down here."""

import csv
import io

import pytest

from longtail.utils.text import as_file_name, read_text, write_csv


@pytest.mark.parametrize(
    "content",
    [
        b"a\xc3\xbc\n",
        b"\xef\xbb\xbfa\xc3\xbc\n",
        b"\xff\xfea\x00\xfc\x00\n\x00",
        b"\xfe\xff\x00a\x00\xfc\x00\n",
    ],
)
def test_byte_order_marks_are_taken_off(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    assert read_text(tmp_path / "list.txt") == "aü\n"


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a\xfc\n")
    with pytest.raises(ValueError, match=r"list\.txt is not text in UTF-8 .*: save it as UTF-8"):
        read_text(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-a", "'-a"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "' =1"),
        ("a\r\n=1", "a  =1"),
        ("\n-1", "' -1"),
        ("a=1", "a=1"),
        ("it's", "it's"),
        ("", ""),
    ],
)
def test_text_that_a_spreadsheet_would_run(text, cell):
    file = io.StringIO(newline="")
    write_csv(file, ["name", text or "x"], [{"name": text, text or "x": -1.5}])
    header, row = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert header == ["name", cell or "x"]
    assert row == [cell, "-1.5"]  # numbers stay numbers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("synthetic_sem_seg_val", "synthetic_sem_seg_val"),
        ("traffic light", "traffic light"),
        ("Straße-1.5", "Straße-1.5"),
        ("a/b", "a%2Fb"),
        ("a%2Fb", "a%252Fb"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("../../etc/x", "%2E.%2F..%2Fetc%2Fx"),
        ("c:\\x\n", "c%3A%5Cx%0A"),
        ("", "%"),
    ],
)
def test_names_stay_in_their_folder(name, expected):
    assert as_file_name(name) == expected
