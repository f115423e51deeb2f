"""Request bodies: JSON, decoded strictly into the type that the handler declares, each wrong field named."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from litestar import Request
from litestar.types import Empty

from headwater.api.errors import MediaTypeUnsupported
from headwater.errors import Invalid

_ERROR = re.compile(r"(?P<message>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?", re.DOTALL)
_MEMBER = re.compile(r"(?:missing required|contains unknown) field `([^`]*)`")


class APIRequest(Request[Any, Any, Any]):
    """Litestar would convert `"1"` to 1 in a body; a client that sends text for a number has a bug and is told."""

    async def json(self) -> Any:
        """Raises Invalid, with `errors`, or MediaTypeUnsupported."""
        declared = self.route_handler.parsed_fn_signature.parameters.get("data")
        if declared is None:
            return await super().json()
        if self._json is Empty:
            media_type = self.content_type[0].lower()
            if media_type not in {"application/json", ""}:
                raise MediaTypeUnsupported("send application/json")
            self._json = decode(await self.body(), declared.annotation)
        return self._json


def decode(body: bytes, expected: Any) -> Any:
    """Raises Invalid."""
    try:
        return msgspec.json.decode(body, type=expected)
    except msgspec.ValidationError as error:
        return _decode_again(body, expected, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid("the body is not JSON", errors=[{"in": "body", "name": "", "message": str(error)}]) from error


def _decode_again(body: bytes, expected: Any, first: msgspec.ValidationError) -> Any:
    """JSON has one kind of number, and many programs write 7.0 for 7: where that was all, the body is good."""
    try:
        raw = _whole(msgspec.json.decode(body))
        return msgspec.convert(raw, expected)
    except msgspec.ValidationError as error:
        raise Invalid("the body is not what this operation takes", errors=_errors(raw, expected, error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # it is no JSON either, further on
        raise Invalid("the body is not what this operation takes", errors=[_error(first)]) from first


def _whole(value: Any) -> Any:
    """With integers for floats that are whole."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _whole(member) for name, member in value.items()}
        case list():
            return [_whole(member) for member in value]
        case _:
            return value


def _errors(raw: Any, expected: Any, first: msgspec.ValidationError) -> list[dict[str, str]]:
    """All wrong members of an object, not only the first that the decoder met."""
    found = {_error(first)["name"]: _error(first)}
    if isinstance(raw, dict) and isinstance(expected, type) and issubclass(expected, msgspec.Struct):
        for member in msgspec.structs.fields(expected):
            if member.encode_name in raw:
                try:
                    msgspec.convert(raw[member.encode_name], member.type)
                except msgspec.ValidationError as error:
                    one = _error(error)
                    inside = one["name"]
                    one["name"] = member.encode_name + (f".{inside}" if inside[:1] not in {"", "["} else inside)
                    found.setdefault(one["name"], one)
            elif member.required:
                found.setdefault(
                    member.encode_name, {"in": "body", "name": member.encode_name, "message": "This member is missing"}
                )
    return list(found.values())


def _error(error: msgspec.ValidationError) -> dict[str, str]:
    match = _ERROR.fullmatch(str(error))
    assert match is not None  # the pattern matches every text
    path = (match["path"] or "").removeprefix(".")
    named = _MEMBER.search(match["message"])
    if named is not None:
        path = f"{path}.{named[1]}".removeprefix(".")
    return {"in": "body", "name": path, "message": match["message"]}
