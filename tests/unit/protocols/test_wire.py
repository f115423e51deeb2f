"""MQTT's data types: the examples of MQTT 5, section 1.5."""

from __future__ import annotations

import pytest

from headwater.protocols.mqtt import LocalProtocolError, RemoteProtocolError
from headwater.protocols.mqtt.decode import find_frame
from headwater.protocols.mqtt.wire import Reader, encode_binary, encode_text, encode_two, encode_variable_integer


def reader(data: bytes) -> Reader:
    return Reader(data, 0, len(data))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2_097_151, "ffff7f"),
        (2_097_152, "80808001"),
        (268_435_455, "ffffff7f"),
    ],
)
def test_variable_byte_integers(value: int, encoded: str) -> None:
    assert encode_variable_integer(value).hex() == encoded
    assert reader(bytes.fromhex(encoded + "00")).variable_integer() == value


@pytest.mark.parametrize("encoded", ["80", "8000", "ff8000", "80808080", "ffffffff7f"])
def test_variable_byte_integers_that_are_none(encoded: str) -> None:
    with pytest.raises(RemoteProtocolError):
        reader(bytes.fromhex(encoded)).variable_integer()


def test_text_keeps_every_character() -> None:
    text = "A\U0002a6d4\ufeff\x01"  # the specification's example, a byte order mark, a control character
    assert reader(encode_text(text)).text() == text
    assert encode_text("A\U0002a6d4").hex() == "000541f0aa9b94"


@pytest.mark.parametrize("raw", ["0001ff", "0003eda080", "0002c080", "000100", "000361"])
def test_text_that_is_none(raw: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        reader(bytes.fromhex(raw)).text()
    assert caught.value.reason == 0x81


def test_what_does_not_fit_is_not_written() -> None:
    for write in (
        lambda: encode_two(65_536),
        lambda: encode_two(-1),
        lambda: encode_binary(bytes(65_536)),
        lambda: encode_text("x" * 65_536),
        lambda: encode_text("\ud800"),
        lambda: encode_text("a\0"),
        lambda: encode_variable_integer(268_435_456),
    ):
        with pytest.raises(LocalProtocolError):
            write()


@pytest.mark.parametrize(
    ("data", "expected"),
    [("30", None), ("3080", None), ("308080", None), ("c000", (2, 2)), ("307f", (2, 129)), ("30ffffff7f", (5, 268_435_460))],
)
def test_frames(data: str, expected: tuple[int, int] | None) -> None:
    assert find_frame(bytes.fromhex(data), 0, 4) == expected


def test_a_frame_length_is_minimal_in_version_5_only() -> None:
    assert find_frame(bytes.fromhex("308000"), 0, 4) == (3, 3)
    with pytest.raises(RemoteProtocolError):
        find_frame(bytes.fromhex("308000"), 0, 5)
    with pytest.raises(RemoteProtocolError):
        find_frame(bytes.fromhex("3080808080"), 0, 4)
