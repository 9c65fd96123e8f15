"""Small files, and sizes in words."""

from __future__ import annotations

import os

import pytest

from gguffast.errors import FileError, FormatError, OptionError
from gguffast.files import format_bytes, parse_size, read_file


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (93.1e6, "93.1 MB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_format_bytes(n, text):
    assert format_bytes(n) == text


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), (7, 7), ("64K", 64_000), ("500M", 5 * 10**8), (" 4g ", 4 * 10**9)]
)
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4T", "-1", "1.5G", "G", "9" * 5000, "\u0664G"])
def test_what_is_no_size(text):
    with pytest.raises(OptionError, match="expected a number of bytes"):
        parse_size(text)


def test_a_small_file_is_read_whole(tmp_path):
    (tmp_path / "f").write_bytes(b"text")
    assert read_file(tmp_path / "f", "the notes") == b"text"


def test_a_file_may_be_too_large_for_what_it_should_be(tmp_path):
    (tmp_path / "f").write_bytes(bytes(11))
    assert read_file(tmp_path / "f", "the notes", 11) == bytes(11)
    with pytest.raises(FormatError, match=r"f: 11 B are more than the notes can have \(10 B\)"):
        read_file(tmp_path / "f", "the notes", 10)


@pytest.mark.parametrize(
    ("name", "words"),
    [("pipe", "not a regular file"), (".", "a folder"), ("none", "no such file"), ("a\0b", "null")],
)
def test_what_is_no_file_is_refused_in_words(tmp_path, name, words):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match=words):
        read_file(tmp_path / name, "the notes")


def test_devices_are_refused():
    with pytest.raises(FileError, match="/dev/zero: it is not a regular file"):
        read_file("/dev/zero", "the notes")
