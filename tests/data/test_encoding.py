"""Bytes are recognised as text in some encoding, or as no text."""

from __future__ import annotations

import codecs
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives import NOT_TEXT
from sharnn.data.encoding import HEAD_BYTES, Form, decoded, form_of
from sharnn.data.unpack import Reader
from sharnn.errors import DataError
from texts import reference_text

TEXT = "Žluťoučký kůň, naïve façade: 日本語 😀\n" * 200


def utf8(data: bytes, codec: str | None, strict: bool = True) -> bytes:
    """Decode in small chunks."""

    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(3)

    return b"".join(decoded(Reader("text", lambda: Trickle(data)), codec, strict).chunks())


@given(st.text(min_size=1).filter(lambda text: text[0] != "\0"))
@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_marked_text_is_decoded(codec: str, text: str) -> None:
    """A text that begins with NUL has the mark of UTF-32 in UTF-16."""
    data = text.encode(codec)
    form = form_of(data)
    assert (form.codec, form.not_text) == (codec, "")
    assert utf8(data, form.codec, strict=False) == text.encode()


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_utf16_of_either_order(codec: str, mark: str) -> None:
    text = reference_text(80_000).decode()
    data = (mark + text).encode(codec)
    form = form_of(data[:HEAD_BYTES])
    assert form.label == "UTF-16"
    assert utf8(data, form.codec) == text.encode()


@given(st.binary(max_size=300))
def test_bytes_that_are_no_utf16_stay_as_they_are(data: bytes) -> None:
    form = form_of(data)
    marks = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
    if not data.startswith(marks) and data.count(0) < 0.2 * len(data):
        assert form.codec is None
        assert utf8(data, form.codec) == data


@given(st.binary(max_size=300))
def test_every_byte_is_latin1(data: bytes) -> None:
    codec = form_of(data, "latin-1").codec
    assert utf8(data, codec) == data.decode("latin-1").encode()
    assert form_of(data, "bytes") == Form()


@pytest.mark.parametrize("codec", ["cp1252", "koi8-r", "shift_jis", "utf-8", "utf-16-be", "utf-7"])
def test_a_given_encoding_is_decoded_in_chunks(codec: str) -> None:
    text = {"cp1252": "“naïve” €", "koi8-r": "привет", "shift_jis": "日本語"}.get(codec, TEXT) * 50
    assert utf8(text.encode(codec), form_of(b"", codec).codec) == text.encode()


def test_what_is_not_in_the_given_encoding_is_refused_with_its_place() -> None:
    data = "é".encode() * 10 + b"\xff rest"
    with pytest.raises(DataError, match=r"text is not utf-8 text: byte 20 \(invalid start byte\)"):
        utf8(data, form_of(data, "utf-8").codec)
    with pytest.raises(DataError, match=r"not shift_jis text: byte 3 "):
        utf8(b"abc\xff", "shift_jis")
    with pytest.raises(DataError, match=r"not utf-16-le text: byte 2 \(truncated"):
        utf8(b"a\0b", "utf-16-le")


@pytest.mark.parametrize("name", NOT_TEXT)
def test_what_is_not_text(name: str) -> None:
    assert form_of(NOT_TEXT[name]).not_text
    assert form_of(NOT_TEXT[name], "latin-1").not_text
    assert not form_of(NOT_TEXT[name], "bytes").not_text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        b"\0" + b"a text with one NUL\n" * 9,
        TEXT.encode(),
        "déjà vu, naïve\n".encode("latin-1"),
        "“quoted” – text\n".encode("cp1252"),
        "привет, мир\n".encode("koi8-r"),
        "日本語の文章\n".encode("shift_jis"),
        b"\x1b[31mred\x1b[0m\n" * 20,
        b"page one\f\r\npage two\f\r\n",
    ],
)
def test_what_is_text(data: bytes) -> None:
    assert form_of(data) == Form()


def test_archives_that_cannot_be_unpacked_are_known() -> None:
    assert form_of(b"7z\xbc\xaf\x27\x1c\0\4").sealed
    assert form_of(b"Rar!\x1a\x07\0").not_text == "RAR archive"
