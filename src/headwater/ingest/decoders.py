"""Bytes to plain values: dict, list, str, int, float, bool, None, and what only CBOR and MessagePack know (refused later).

Whatever comes in, only `PayloadMalformed` comes out, and no decoder does work that is not bounded by the length of its
input: CBOR tags that build things (bignums, regular expressions, shared references) are refused.
Of a JSON or MessagePack member that is given twice the last wins; CBOR forbids it, and so do we.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from io import BytesIO
from typing import Any

import cbor2
import msgspec

from headwater.device.profile import Decoder
from headwater.ingest.errors import PayloadEmpty, PayloadMalformed

DEPTH_MAX = 16
"""Levels of nesting inside a payload: twice what Zigbee2MQTT and Shelly need, and small enough for every reader."""

json_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_msgpack_decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder().decode

CONTENT_TYPES: dict[str, Decoder] = {
    "application/json": Decoder.JSON,
    "application/senml+json": Decoder.SENML_JSON,
    "application/senml+cbor": Decoder.SENML_CBOR,
    "application/cbor": Decoder.CBOR,
    "application/msgpack": Decoder.MSGPACK,
    "application/vnd.msgpack": Decoder.MSGPACK,
    "application/x-msgpack": Decoder.MSGPACK,
}


def decoder_of(content_type: str) -> Decoder | None:
    """The decoder that a media type (HTTP, MQTT 5) names; parameters such as `charset` do not matter. None = not ours."""
    return CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())


def decode_json(payload: bytes) -> Any:
    try:
        return json_decode(payload)
    # ValueError: UnicodeDecodeError, and msgspec's own errors derive from it.
    except (ValueError, RecursionError) as error:
        raise _malformed("JSON", payload, error) from error


def decode_msgpack(payload: bytes) -> Any:
    try:
        return _msgpack_decode(payload)
    # OverflowError: a timestamp that no datetime can hold.
    except (ValueError, RecursionError, OverflowError) as error:
        raise _malformed("MessagePack", payload, error) from error


def decode_cbor(payload: bytes) -> Any:
    source = BytesIO(payload)
    try:
        decoder = cbor2.CBORDecoder(
            source,
            tag_hook=_refuse_tag,
            semantic_decoders=_SEMANTIC,
            max_depth=DEPTH_MAX + 4,
            allow_duplicate_keys=False,
            read_size=1,
        )
        value = decoder.decode()
    except (cbor2.CBORError, ValueError, RecursionError, OverflowError, TypeError) as error:
        raise _malformed("CBOR", payload, error) from error
    if source.tell() != len(payload):
        raise PayloadMalformed("CBOR: trailing bytes")
    return value


DECODERS: dict[Decoder, Callable[[bytes], Any]] = {
    Decoder.AUTO: decode_json,
    Decoder.JSON: decode_json,
    Decoder.SENML_JSON: decode_json,
    Decoder.CBOR: decode_cbor,
    Decoder.SENML_CBOR: decode_cbor,
    Decoder.MSGPACK: decode_msgpack,
}


def _malformed(form: str, payload: bytes, error: BaseException) -> Exception:
    if not payload:
        return PayloadEmpty("the payload is empty")
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition("\n")[0][:200]
    return PayloadMalformed(f"not {form}: {reason}")


class _TagRefused(ValueError):
    pass


def _refuse_tag(*_: object) -> Any:
    raise _TagRefused("a tag that carries no measurement")


def _inner(value: Any, _immutable: bool) -> Any:
    return value


def _decimal_fraction(value: Any, _immutable: bool) -> float:
    """Tag 4, [exponent, mantissa], which SenML allows. 400: beyond it every float is 0 or infinite anyway."""
    exponent, mantissa = value
    if type(exponent) is not int or type(mantissa) is not int or abs(exponent) > 400:
        raise _TagRefused("a decimal fraction out of range")
    return float(Decimal(mantissa).scaleb(exponent))


# Every tag that cbor2 would act on by itself; the unknown ones go to `tag_hook`.
_SEMANTIC: dict[int, Callable[[Any, bool], Any]] = dict.fromkeys(
    (2, 3, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000), _refuse_tag
) | {0: _inner, 1: _inner, 4: _decimal_fraction, 55799: _inner}
