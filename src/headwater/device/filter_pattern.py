"""The filter language as regular expressions, for the API's description: what a program can check before it asks.

A regular expression cannot count, so the one for filters goes one level of parentheses deep, and it takes one way to write
a thing: texts in quotes, times in UTC and not at the end of a month, one space between words. Everything that it matches is
a filter that the parser takes and the compiler fits to its fields: a test generates from it. The parser takes more.

Written for every dialect at once (ECMA-262, Python, Rust): no look-around, no `\\s`, `\\w` or `\\d`. Kept short: whoever
generates from it pays for each of its parts, and a comparison stands in it six times.
"""

from __future__ import annotations

from headwater.device.filter import BAGS, PATH_NAMES_MAX
from headwater.device.filter_sql import COLUMNS

LISTED_MAX = 4
"""Values of one `in`."""
TERMS_MAX = 6
"""Parts that are joined by `and` and `or`: six of them with six comparisons of four values each stay within the parser's
bounds of fifty comparisons and two hundred values."""

_TEXT = r'"[^"\\\x00-\x1f]*"'
_LIKE = r'"\*?[^"\\\x00-\x1f*?]*\*?"'
_NAME = r'(?:[A-Za-z_][A-Za-z0-9_-]*|"[^"\\\x00-\x1f]+")'
_PATH = rf"(?:{'|'.join(bag for bag in BAGS if bag != 'labels')})(?:\.{_NAME}){{1,{PATH_NAMES_MAX}}}"
_UUID = '"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"'
_DAY = "(?:[01][1-9]|10|2[0-8])"
"""Those that every month has: how many more there are is arithmetic."""
_TIME = f'"20[0-9]{{2}}-(?:0[1-9]|1[0-2])-{_DAY}T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){{2}}Z"'
_INTEGER = "(?:0|[1-9][0-9]{0,17})"
_NUMBER = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,6})?"
_EQUAL, _ORDER = " ?!?= ?", " ?(?:!?=|[<>]=?) ?"


def _listed(value: str) -> str:
    return rf"in \({value}(?:, ?{value}){{0,{LISTED_MAX - 1}}}\)"


def _named(kind: str) -> str:
    return "|".join(name for name, column in COLUMNS.items() if column.kind == kind and not column.choices)


def _words() -> str:
    """Columns that are one of a few words."""
    return "|".join(
        f"{name}(?:{_EQUAL}(?:{words})| (?:not )?{_listed(f'(?:{words})')})"
        for name, column in COLUMNS.items()
        if (words := "|".join(column.choices))
    )


_COMPARISON = (
    rf"(?:(?:{_named('text')}|labels\.{_NAME}|{_PATH})"
    f"(?:{_ORDER}{_TEXT}| (?:not )?(?:{_listed(_TEXT)}|like {_LIKE})| exists)"
    f"|{_PATH}(?:{_ORDER}{_NUMBER}|{_EQUAL}(?:true|false|null))"
    f"|(?:{_named('time')})(?:{_ORDER}{_TIME}| exists)"
    f"|{_words()}"
    f"|(?:{_named('uuid')}){_EQUAL}{_UUID}"
    f"|(?:{_named('boolean')}){_EQUAL}(?:true|false)"
    f"|(?:{_named('integer')}){_ORDER}{_INTEGER})"
)


def _joined(part: str) -> str:
    return f"{part}(?: (?:and|or) {part}){{0,{TERMS_MAX - 1}}}"


_FILTER = _joined(rf"(?:not )?(?:{_COMPARISON}|\({_joined(f'(?:not )?{_COMPARISON}')}\))")

FILTER_PATTERN = f"^(?:{_FILTER})?$"
"""Empty = every device."""
SORT_PATTERN = rf"^-?(?:{'|'.join(COLUMNS)}|labels\.{_NAME}|{_PATH})$"
