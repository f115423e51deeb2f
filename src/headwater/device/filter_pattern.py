"""The filter language as regular expressions, for the API's description: what a program can check before it asks.

A regular expression cannot count, so the one for filters goes one level of parentheses deep and takes one way to write
each value (texts in quotes). Everything that it matches is a filter that the parser takes and the compiler fits to its
fields: a test generates from it. The parser takes more: deeper parentheses, bare words, other white space.

Written for every dialect at once (ECMA-262, Python, Rust): no look-around, no names, no `\\s`, `\\w` or `\\d`.
"""

from __future__ import annotations

from headwater.device.filter import BAGS, PATH_NAMES_MAX, WILDCARDS_MAX
from headwater.device.filter_sql import COLUMNS, Column

LISTED_MAX = 4
"""Values of one `in`."""
TERMS_MAX = 6
"""Parts that are joined by `and` and `or`: six of them with six comparisons of four values each stay within the parser's
bounds of fifty comparisons and two hundred values."""

_CHARACTER = r'[^"\\\x00-\x1f]'
_TEXT = rf'"{_CHARACTER}*"'
_LIKE = r'"[^"\\\x00-\x1f*?]*(?:[*?][^"\\\x00-\x1f*?]*){0,' + str(WILDCARDS_MAX) + '}"'
_NAME = rf'(?:[A-Za-z_][A-Za-z0-9_-]*|"{_CHARACTER}+")'
_HEX = "[0-9a-f]"
_UUID = f'"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"'
_DAY = (
    "(?:19[7-9][0-9]|20[0-9]{2})-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)"
    "|(?:0[13578]|1[02])-31)"
)
"""Not the 29th of February: which years have one is arithmetic."""
_TIME = rf'"{_DAY}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9])"'
_INTEGER = "(?:0|[1-9][0-9]{0,17})"
_NUMBER = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,6})?"


def _listed(value: str) -> str:
    return rf" (?:not )?in \({value}(?:, ?{value}){{0,{LISTED_MAX - 1}}}\)"


_EQUAL, _ORDER, _LIKES, _EXISTS = " ?!?= ?", " ?(?:!?=|[<>]=?) ?", rf" (?:not )?like {_LIKE}", " exists"
_OF_KIND = {
    "text": f"(?:{_ORDER}{_TEXT}|{_listed(_TEXT)}|{_LIKES}|{_EXISTS})",
    "uuid": f"(?:{_EQUAL}{_UUID}|{_listed(_UUID)}|{_EXISTS})",
    "time": f"(?:{_ORDER}{_TIME}|{_listed(_TIME)}|{_EXISTS})",
    "integer": f"(?:{_ORDER}{_INTEGER}|{_listed(_INTEGER)}|{_EXISTS})",
    "boolean": f"(?:{_EQUAL}(?:true|false)|{_EXISTS})",
}
_SCALAR = f"(?:{_TEXT}|{_NUMBER}|true|false|null)"
_OF_JSON = f"(?:{_EQUAL}{_SCALAR}|{_ORDER}(?:{_TEXT}|{_NUMBER})|{_listed(_SCALAR)}|{_LIKES}|{_EXISTS})"
_DEEP = "|".join(bag for bag in BAGS if bag != "labels")
_PATHS = rf"(?:{_DEEP})(?:\.{_NAME}){{1,{PATH_NAMES_MAX}}}"


def _kind(column: Column) -> str:
    """A column of few words is compared as any text, but only with its own words."""
    return "|".join(column.choices) or column.kind


def _columns() -> str:
    by_kind: dict[str, list[str]] = {}
    for name, column in COLUMNS.items():
        by_kind.setdefault(_kind(column), []).append(name)
    by_kind["text"].append(rf"labels\.{_NAME}")
    return "|".join(f"(?:{'|'.join(names)}){_OF_KIND.get(kind) or _of_words(kind)}" for kind, names in by_kind.items())


def _of_words(words: str) -> str:
    word = f"(?:{words})"
    return f"(?:{_EQUAL}{word}|{_listed(word)}|{_EXISTS})"


_COMPARISON = f"(?:{_columns()}|{_PATHS}{_OF_JSON})"


def _joined(part: str) -> str:
    return f"{part}(?: (?:and|or) {part}){{0,{TERMS_MAX - 1}}}"


_PLAIN = f"(?:not )?{_COMPARISON}"
_FILTER = _joined(rf"(?:{_PLAIN}|(?:not )?\({_joined(_PLAIN)}\))")

FILTER_PATTERN = f"^(?:{_FILTER})$"
OPTIONAL_FILTER_PATTERN = f"^(?:{_FILTER})?$"
"""Empty = every device."""
SORT_PATTERN = rf"^-?(?:{'|'.join(COLUMNS)}|labels\.{_NAME}|{_PATHS})$"
