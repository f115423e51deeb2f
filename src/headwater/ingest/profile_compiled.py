"""A profile version, compiled once and shared by all of its devices: the gateways' hot path.

Pure: no I/O, no clock, no logging. JSON with the time in integer milliseconds, or without a time, whose metric names were
seen before needs one decode, one look-up of the tuple of names and one comparison a value; everything else goes the
general way (`reader.py`), with the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec

from headwater.device.principal import ProfileVersion
from headwater.device.profile import Decoder, TopicKind, TopicRule
from headwater.ingest.decoders import DECODERS, decode_json, json_decode
from headwater.ingest.errors import EventNameInvalid, Rejected
from headwater.ingest.normaliser import STRING, Check, MetricNormaliser, normalise_attributes
from headwater.ingest.reader import Observed, Outcome, Reader
from headwater.ingest.shapes import Shape
from headwater.ingest.timestamps import EARLIEST_US, judge, microseconds
from headwater.ingest.values import INT_MAX, INT_MIN, STRING_LENGTH_MAX, json_text
from headwater.stream.envelope import EXT_JSON, Kind

__all__ = ["CompiledProfile", "CompiledProfiles", "CompiledRule", "Observed", "Outcome", "PayloadReader"]

_SHAPES_MAX = 1_024
"""Tuples of names that one profile remembers: firmware sends a handful; the bound is for those that invent names"""
_SHAPE_NAMES_MAX = 64
_UNSEEN: Any = object()
_TIME_WORDS = frozenset(("ts", "time", "values"))
EVENT_NAME_LENGTH_MAX = 64


PayloadReader = Callable[[bytes, int], list[Observed]]
"""(payload, received_us); raises Rejected"""


class TelemetryReader(Protocol):
    def __call__(self, payload: bytes, received_us: int, decoder: Decoder | None = None) -> list[Observed]: ...


class CompiledRule(NamedTuple):
    """A topic rule of the profile; `filter` still holds its placeholders.

    reader  for a concrete topic: (payload, received_us) -> records. The topic's last level names the event of an EVENT rule.
    """

    filter: str
    kind: Kind
    reader: Callable[[str], PayloadReader]


class CompiledProfile:
    """telemetry, attributes and event give `(observed_at_us, body)` for each record, or raise Rejected and give nothing.

    decoder: None (or AUTO) = the profile's.
    """

    def __init__(self, profile: ProfileVersion) -> None:
        definition = profile.definition
        self.profile = profile
        self._decoder = _concrete(definition.decoder, Decoder.JSON)
        self._future_us = definition.future_s_max * 1_000_000
        self._normalise = MetricNormaliser(definition)
        self._telemetry = {d: Reader(d, Shape(), self._normalise, self._future_us) for d in DECODERS}
        self._attributes = {d: Reader(d, Shape(timed=False), normalise_attributes, self._future_us) for d in DECODERS}
        self.telemetry: TelemetryReader = self._fast_telemetry()
        self.topic_rules = tuple(self._compile_rule(rule) for rule in definition.topics)

    def decoder_for(self, decoder: Decoder | None) -> Decoder:
        """What AUTO and nothing mean for this profile."""
        return _concrete(decoder, self._decoder)

    def telemetry_each(self, payload: bytes, received_us: int, decoder: Decoder | None = None) -> list[Outcome]:
        """Record by record, for who wants the good ones. Raises Rejected where the whole payload cannot be read."""
        return self._telemetry[_concrete(decoder, self._decoder)].each(payload, received_us)

    def attributes(self, payload: bytes, received_us: int, decoder: Decoder | None = None) -> list[Observed]:
        """None in a body = forget the attribute."""
        return self._attributes[_concrete(decoder, self._decoder)].read(payload, received_us)

    def attributes_each(self, payload: bytes, received_us: int, decoder: Decoder | None = None) -> list[Outcome]:
        return self._attributes[_concrete(decoder, self._decoder)].each(payload, received_us)

    def event(self, name: str, payload: bytes, received_us: int, decoder: Decoder | None = None) -> list[Observed]:
        """Always one. The payload is any data, or `{"ts", "data"}`; no payload = no data."""
        check_event_name(name)
        tree = DECODERS[_concrete(decoder, self._decoder)](payload) if payload else None
        return [self._event(name, tree, received_us)]

    def event_reader(self, name: str, decoder: Decoder | None = None) -> PayloadReader:
        """For a topic that names the event. Raises EventNameInvalid here already."""
        check_event_name(name)
        return lambda payload, received_us: self.event(name, payload, received_us, decoder)

    def _event(self, name: str, tree: Any, received_us: int) -> Observed:
        observed_us, data = received_us, tree
        if type(tree) is dict and len(tree) == 2 and "ts" in tree and "data" in tree:
            data = tree["data"]
            if tree["ts"] is not None:
                observed_us = judge(microseconds(tree["ts"]), received_us, self._future_us)
        return observed_us, {"name": name, "data": msgspec.msgpack.Ext(EXT_JSON, json_text("data", data))}

    def _compile_rule(self, rule: TopicRule) -> CompiledRule:
        decoder = _concrete(rule.decoder, self._decoder)
        if rule.kind is TopicKind.EVENT:
            return CompiledRule(rule.filter, Kind.EVENT, self._event_rule_reader(decoder, Shape.of(rule)))
        if rule.kind is TopicKind.ATTRIBUTES:
            reader = Reader(decoder, Shape.of(rule, timed=False), normalise_attributes, self._future_us)
            return CompiledRule(rule.filter, Kind.ATTRIBUTES, lambda topic: reader.read)
        read: PayloadReader = self.telemetry
        if decoder is not self._decoder or rule.path or rule.flatten or rule.time_key:
            read = Reader(decoder, Shape.of(rule), self._normalise, self._future_us).read
        return CompiledRule(rule.filter, Kind.TELEMETRY, lambda topic: read)

    def _event_rule_reader(self, decoder: Decoder, shape: Shape) -> Callable[[str], PayloadReader]:
        decode = DECODERS[decoder]

        def reader(topic: str) -> PayloadReader:
            name = topic.rpartition("/")[2]
            check_event_name(name)

            def read(payload: bytes, received_us: int) -> list[Observed]:
                part, time = shape.find(decode(payload) if payload else None)
                if time is not None:
                    part = {"ts": time, "data": part}
                return [self._event(name, part, received_us)]

            return read

        return reader

    def _fast_telemetry(self) -> TelemetryReader:
        """A closure: local names are what the hot path can afford."""
        readers = self._telemetry
        general = readers[Decoder.JSON].read_tree
        default = self._decoder
        json_by_default = default is Decoder.JSON
        future_us = self._future_us
        normalise = self._normalise
        shapes: dict[tuple[Any, ...], tuple[Check, ...] | None] = {}
        find_shape = shapes.get

        def remember(values: dict[Any, Any]) -> None:
            names = tuple(values)
            if len(names) <= _SHAPE_NAMES_MAX and len(shapes) < _SHAPES_MAX and _TIME_WORDS.isdisjoint(names):
                shapes[names] = normalise.plan(names)

        def telemetry(payload: bytes, received_us: int, decoder: Decoder | None = None) -> list[Observed]:
            if decoder is not None or not json_by_default:
                chosen = _concrete(decoder, default)
                if chosen is not Decoder.JSON:
                    return readers[chosen].read(payload, received_us)
            try:
                tree = json_decode(payload)
            except (ValueError, RecursionError):
                decode_json(payload)  # the same error, in our words
                raise
            if type(tree) is not dict:
                return general(tree, received_us)
            values = tree.get("values")
            if type(values) is dict:
                at = tree.get("ts")
                if type(at) is not int or len(tree) != 2:
                    return general(tree, received_us)
                observed_us = at * 1_000
                if not EARLIEST_US <= observed_us <= received_us + future_us:
                    return general(tree, received_us)  # another unit of time, or an error
            else:
                values = tree
                observed_us = received_us
            plan = find_shape(tuple(values), _UNSEEN)
            if plan is _UNSEEN:
                records = general(tree, received_us)
                remember(values)
                return records
            if plan:
                for value, (name, kind, low, high) in zip(values.values(), plan):  # noqa: B905  # equal length; strict costs
                    if type(value) is kind:
                        if low <= value <= high:
                            continue
                    elif type(value) is int and low <= value <= high:
                        if kind is float and INT_MIN <= value <= INT_MAX:
                            values[name] = float(value)  # firmware in JavaScript writes 21.0 as 21
                            continue
                        if kind is None:
                            continue
                    elif type(value) is str:
                        if (kind is None or kind is STRING) and len(value) <= STRING_LENGTH_MAX and "\0" not in value:
                            continue
                    elif kind is None and (type(value) is float or type(value) is bool):
                        continue
                    break
                else:
                    return [(observed_us, values)]
            elif plan is not None:
                for value in values.values():
                    if type(value) is not float and not (
                        (type(value) is int and INT_MIN <= value <= INT_MAX)
                        or type(value) is bool
                        or (type(value) is str and len(value) <= STRING_LENGTH_MAX and "\0" not in value)
                    ):
                        break
                else:
                    return [(observed_us, values)]
            try:
                body = normalise(values)
            except Rejected as rejected:
                raise rejected.at(0) from None
            return [(observed_us, body)] if body else []

        return telemetry


class CompiledProfiles:
    """Compiled profile versions by identity. Bounded: a compiled profile of 1,000 metrics is about 1 MiB."""

    def __init__(self, versions_max: int = 4_096) -> None:
        self._versions_max = versions_max
        self._compiled: dict[tuple[UUID, int], CompiledProfile] = {}

    def get(self, profile: ProfileVersion) -> CompiledProfile:
        key = (profile.profile_id, profile.version)
        compiled = self._compiled.get(key)
        if compiled is None:
            while len(self._compiled) >= self._versions_max:
                del self._compiled[next(iter(self._compiled))]
            compiled = self._compiled[key] = CompiledProfile(profile)
        return compiled


_EVENT_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def check_event_name(name: str) -> None:
    if not 0 < len(name) <= EVENT_NAME_LENGTH_MAX or not _EVENT_NAME.issuperset(name):
        raise EventNameInvalid(f"an event's name is 1 to {EVENT_NAME_LENGTH_MAX} of A-Z a-z 0-9 - _ .")


def _concrete(decoder: Decoder | None, default: Decoder) -> Decoder:
    return default if decoder is None or decoder is Decoder.AUTO else decoder
