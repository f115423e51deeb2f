"""The filter language for devices: text in, a small tree out. Knows no SQL; `filter_sql.py` compiles the tree.

    labels.site = "north" and attributes.floor >= 3 and status in (active, suspended)
    connected = true and not name like "pump*" and (reported.firmware exists or profile = "tasmota")

    filter      := term ("or" term)*            term := factor ("and" factor)*
    factor      := "not" factor | "(" filter ")" | comparison
    comparison  := field "exists"
                 | field ("=" | "!=" | "<" | "<=" | ">" | ">=") value
                 | field ["not"] "in" "(" value ("," value)* ")"
                 | field ["not"] "like" text
    field       := column | ("labels" | "attributes" | "reported") ("." name)+

A name or a value is a bare word, or stands in double quotes with JSON's escapes. `like` ignores case; `*` is any run of
characters, `?` any one. Every comparison is true or false, never unknown: a device without the field fails it, and `!=`
is exactly `not =`. Invariants: any text gives a tree or FilterInvalid, nothing else; depth and size are bounded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NamedTuple

from headwater.device.errors import FilterInvalid

TEXT_CHARACTERS_MAX = 4000
"""A URL of 8 KiB, the least that proxies pass on, still holds it percent-encoded in the usual case."""
DEPTH_MAX = 20
"""Parentheses and `not`: more is a program's mistake; keeps the recursion far from Python's limit."""
TERMS_MAX = 50
"""Comparisons: each costs every candidate row something."""
VALUES_MAX = 200
"""All values of all `in` lists together: each becomes one probe of an index."""
PATH_NAMES_MAX = 8
WILDCARDS_MAX = 5
"""In one `like` pattern: matching takes time that grows with their number."""

Scalar = str | int | float | bool | None

BAGS = ("labels", "attributes", "reported")
_SPACES = " \t\n\r\v\f"
_KEYWORDS = frozenset({"and", "or", "not", "in", "like", "exists", "true", "false", "null"})


@dataclass(frozen=True, slots=True)
class Field:
    """path is empty for a column."""

    name: str
    path: tuple[str, ...]
    position: int

    def __str__(self) -> str:
        return ".".join((self.name, *self.path))


@dataclass(frozen=True, slots=True)
class Value:
    value: Scalar
    position: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """operator: one of = < <= > >= in like exists"""

    field: Field
    operator: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Not:
    operand: Node


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple[Node, ...]


Node = Comparison | Not | And | Or


class Token(NamedTuple):
    """kind: word, text, number, operator (its text), end"""

    kind: str
    text: str
    value: Scalar
    position: int


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?(?:0|[1-9][0-9]{0,29})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?)(?![A-Za-z0-9_.-])
      | (?P<word>[A-Za-z_0-9-]+)
      | (?P<text>"(?:[^"\\\x00-\x1f]|\\.)*")
      | (?P<operator><=|>=|!=|[=<>(),.])
    )""",
    re.VERBOSE | re.ASCII,
)


def find_filter(text: str) -> Node | None:
    """None where nothing is said, which finds everything. Raises FilterInvalid."""
    return parse_filter(text) if text.strip(_SPACES) else None


def parse_filter(text: str) -> Node:
    """Raises FilterInvalid, which knows the position."""
    return _Parser(_tokens(text)).filter_to_end()


def parse_field(text: str) -> Field:
    """A field alone, as a sort key names it. Raises FilterInvalid."""
    return _Parser(_tokens(text)).field_to_end()


def _tokens(text: str) -> list[Token]:
    if len(text) > TEXT_CHARACTERS_MAX:
        raise FilterInvalid(f"a filter has at most {TEXT_CHARACTERS_MAX} characters", TEXT_CHARACTERS_MAX)
    tokens: list[Token] = []
    position = 0
    end = len(text.rstrip(_SPACES))
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            start = position + len(text[position:]) - len(text[position:].lstrip(_SPACES))
            raise FilterInvalid(_complaint(text, start), start)
        tokens.append(_token(match))
        position = match.end()
    tokens.append(Token("end", "the end", None, end))
    return tokens


def _complaint(text: str, position: int) -> str:
    return "this text has no closing quote" if text[position] == '"' else f"unexpected character {text[position]!r}"


def _token(match: re.Match[str]) -> Token:
    kind = match.lastgroup or ""
    raw = match[kind]
    position = match.start(kind)
    if kind == "number":
        return Token(kind, raw, _number(raw, position), position)
    if kind == "text":
        return Token(kind, raw, _quoted(raw, position), position)
    return Token(raw if kind == "operator" else kind, raw, raw, position)


def _number(raw: str, position: int) -> int | float:
    number = float(raw)
    if number in {float("inf"), float("-inf")}:
        raise FilterInvalid("this number is too large", position)
    if raw.lstrip("-").isdigit() and abs(number) < 2**63:
        return int(raw)
    return number


def _quoted(raw: str, position: int) -> str:
    try:
        value = str(json.loads(raw))
        value.encode()
    except ValueError as error:  # also a lone surrogate, which is no text
        raise FilterInvalid("a text takes the escapes of JSON", position) from error
    if "\0" in value:
        raise FilterInvalid("a text cannot hold the character NUL", position)
    return value


class _Parser:
    """Recursive descent over the tokens; one method a rule of the grammar."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._terms = 0
        self._values = 0

    def filter_to_end(self) -> Node:
        node = self._filter()
        self._expect_end()
        return node

    def field_to_end(self) -> Field:
        field = self._field()
        self._expect_end()
        return field

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _keyword(self, word: str) -> bool:
        if self._next.kind == "word" and self._next.text.lower() == word:
            self._at += 1
            return True
        return False

    def _expect(self, kind: str) -> None:
        if self._next.kind != kind:
            raise self._unexpected(f"“{kind}”")
        self._at += 1

    def _expect_end(self) -> None:
        if self._next.kind != "end":
            raise self._unexpected("“and”, “or” or the end")

    def _unexpected(self, wanted: str) -> FilterInvalid:
        found = self._next.text if self._next.kind == "end" else f"“{self._next.text}”"
        return FilterInvalid(f"expected {wanted}, found {found}", self._next.position)

    def _filter(self) -> Node:
        operands = [self._term()]
        while self._keyword("or"):
            operands.append(self._term())
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _term(self) -> Node:
        operands = [self._factor()]
        while self._keyword("and"):
            operands.append(self._factor())
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _factor(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise FilterInvalid(f"a filter is at most {DEPTH_MAX} levels deep", self._next.position)
        try:
            if self._keyword("not"):
                return Not(self._factor())
            if self._next.kind == "(":
                self._at += 1
                node = self._filter()
                self._expect(")")
                return node
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Node:
        self._terms += 1
        if self._terms > TERMS_MAX:
            raise FilterInvalid(f"a filter has at most {TERMS_MAX} comparisons", self._next.position)
        field = self._field()
        if self._keyword("exists"):
            return Comparison(field, "exists", ())
        if self._keyword("not"):
            return Not(self._listed_or_like(field))
        if self._next.kind in {"=", "!=", "<", "<=", ">", ">="}:
            operator = self._next.kind
            self._at += 1
            value = self._value()
            if operator == "!=":
                return Not(Comparison(field, "=", (value,)))
            return Comparison(field, operator, (value,))
        return self._listed_or_like(field)

    def _listed_or_like(self, field: Field) -> Comparison:
        if self._keyword("in"):
            return Comparison(field, "in", self._list())
        if self._keyword("like"):
            return Comparison(field, "like", (self._pattern(),))
        raise self._unexpected("a comparison (=, !=, <, <=, >, >=, in, like, exists)")

    def _field(self) -> Field:
        first = self._next
        if first.kind != "word" or first.text.lower() in _KEYWORDS:
            raise self._unexpected("a field")
        self._at += 1
        path = []
        while self._next.kind == ".":
            self._at += 1
            path.append(self._name())
        if len(path) > PATH_NAMES_MAX:
            raise FilterInvalid(f"a path has at most {PATH_NAMES_MAX} names", first.position)
        if first.text in BAGS:
            if not path:
                raise FilterInvalid(f"name one of the {first.text}: {first.text}.<name>", first.position)
            if first.text == "labels" and len(path) > 1:
                raise FilterInvalid('a label has one name; put a name with dots in quotes: labels."a.b"', first.position)
        elif path:
            raise FilterInvalid(f"only {', '.join(BAGS)} have parts", first.position)
        return Field(first.text, tuple(path), first.position)

    def _name(self) -> str:
        token = self._next
        if token.kind not in {"word", "text"} and not token.text.isdigit():
            raise self._unexpected("a name")
        self._at += 1
        return str(token.value) if token.kind == "text" else token.text

    def _value(self) -> Value:
        token = self._next
        self._values += 1
        if self._values > VALUES_MAX:
            raise FilterInvalid(f"a filter has at most {VALUES_MAX} values", token.position)
        if token.kind not in {"word", "text", "number"}:
            raise self._unexpected("a value")
        self._at += 1
        if token.kind == "word":
            return Value(self._word_value(token), token.position)
        return Value(token.value, token.position)

    def _word_value(self, token: Token) -> Scalar:
        word = token.text.lower()
        if word in {"true", "false"}:
            return word == "true"
        if word == "null":
            return None
        if word in _KEYWORDS:
            raise FilterInvalid(f"“{token.text}” is a word of the language: put it in quotes", token.position)
        return token.text

    def _list(self) -> tuple[Value, ...]:
        self._expect("(")
        values = [self._value()]
        while self._next.kind == ",":
            self._at += 1
            values.append(self._value())
        self._expect(")")
        return tuple(values)

    def _pattern(self) -> Value:
        value = self._value()
        if not isinstance(value.value, str):
            raise FilterInvalid('like takes a text: "pump*"', value.position)
        if value.value.count("*") + value.value.count("?") > WILDCARDS_MAX:
            raise FilterInvalid(f"a pattern has at most {WILDCARDS_MAX} wildcards", value.position)
        return value
