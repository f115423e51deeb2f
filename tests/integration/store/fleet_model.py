"""Telemetry of several tenants in the real tables and, beside it, in Python: what retention must leave, worked out value by
value."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from tests.integration.store.stored import type_of
from tests.support.clock import FakeClock
from tests.support.tenants import TenantFactory

from headwater.clock import to_datetime
from headwater.device.profile import ProfileDefinition
from headwater.ids import uuid7
from headwater.store.partitions import PartitionKeeper, list_partitions

DAY = timedelta(days=1)
WIDTHS = {"1m": timedelta(minutes=1), "1h": timedelta(hours=1), "1d": DAY}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROLLED = ("float", "integer", "boolean")

_BUCKETS = "SELECT device_id, metric_id, bucket, count FROM telemetry_{}"
_MINUTES = """
SELECT device_id, metric_id, bucket, sum(count) AS count FROM telemetry_1m, unnest(metrics) AS u(metric_id) GROUP BY 1, 2, 3
"""
# All numbers of one value are alike, so one that stands beside the wrong metric or beside none is found.
_MINUTES_IN_DISORDER = """
SELECT count(*)
FROM telemetry_1m, unnest(metrics, sums, coalesce(mins, sums), coalesce(maxs, sums), coalesce(firsts, sums),
                          coalesce(lasts, sums)) AS u(metric_id, sum, min, max, first, last)
WHERE num_nulls(metric_id, sum, min, max, first, last) > 0 OR NOT (sum = min AND sum = max AND sum = first AND sum = last)
"""

Message = tuple[UUID, datetime, dict[str, Any]]


def clock_at(moment: datetime) -> FakeClock:
    clock = FakeClock()
    clock.advance((moment - to_datetime(clock.now_us())).total_seconds())
    return clock


@dataclass
class Fleet:
    """owner: a superuser's connection. Everything below it is the model."""

    owner: Any
    clock: FakeClock
    keeper: PartitionKeeper
    make_tenant: TenantFactory
    tenant_of: dict[UUID, UUID] = field(default_factory=dict)
    """by device"""
    profile_of: dict[UUID, UUID] = field(default_factory=dict)
    """by device"""
    profiles: dict[UUID, tuple[UUID, ProfileDefinition]] = field(default_factory=dict)
    """id -> (tenant, definition)"""
    metrics: dict[tuple[UUID, str, str], int] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    events: list[tuple[UUID, datetime]] = field(default_factory=list)
    latest: dict[tuple[UUID, frozenset[int]], tuple[datetime, dict[str, Any]]] = field(default_factory=dict)
    rollups: dict[str, dict[tuple[UUID, int, datetime], int]] = field(default_factory=lambda: {w: {} for w in WIDTHS})
    sequence: int = 0

    @property
    def today(self) -> date:
        return to_datetime(self.clock.now_us()).date()

    # --- making ------------------------------------------------------------------------------------------------------

    async def profile(self, tenant: UUID, definition: ProfileDefinition) -> UUID:
        made = uuid7()
        await self.owner.execute(
            "INSERT INTO profile (id, tenant_id, name, definition) VALUES ($1, $2, $3, $4)",
            made, tenant, str(made), _json(definition),
        )  # fmt: skip
        self.profiles[made] = (tenant, definition)
        return made

    async def change(self, profile: UUID, definition: ProfileDefinition) -> None:
        await self.owner.execute(
            "UPDATE profile SET definition = $2, version = version + 1 WHERE id = $1", profile, _json(definition)
        )
        self.profiles[profile] = (self.profiles[profile][0], definition)

    async def device(self, profile: UUID) -> UUID:
        """One that is old enough not to count as changed."""
        made, tenant = uuid7(), self.profiles[profile][0]
        await self.owner.execute(
            "INSERT INTO device (id, tenant_id, external_id, profile_id, created_at, updated_at)"
            " VALUES ($1, $2, $3, $4, now() - interval '1 day', now() - interval '1 day')",
            made, tenant, str(made), profile,
        )  # fmt: skip
        self.tenant_of[made], self.profile_of[made] = tenant, profile
        return made

    async def move(self, device: UUID, profile: UUID) -> None:
        await self.owner.execute("UPDATE device SET profile_id = $2, updated_at = now() WHERE id = $1", device, profile)
        self.profile_of[device] = profile

    async def store(self, messages: Iterable[Message], *, place: int | None = None, rolled: bool = True) -> None:
        """As the store and the roll-up leave them.

        place   in the stream, where it is not the next
        rolled  False: `roll_up` comes later
        """
        self.sequence += 1
        messages = list(messages)
        days = {at.date() for _, at, _ in messages}
        await self.keeper.ensure({(day - _EPOCH.date()).days for day in days})
        if days:
            await self.keeper.ensure_rollups(min(days), max(days))
        await self._name(messages)
        await self.owner.copy_records_to_table(
            "telemetry", schema_name="headwater",
            records=[self._row(message, place or self.sequence) for message in messages],
        )  # fmt: skip
        for device, at, values in messages:
            await self._latest(device, at, values)
        self.messages += messages
        await self._reach("store")
        if rolled:
            await self.roll_up(messages)

    async def roll_up(self, messages: Iterable[Message]) -> None:
        for device, at, values in messages:
            await self._roll_up(device, at, values)
        await self._reach("rollup")

    async def happen(self, devices: Iterable[tuple[UUID, datetime]]) -> None:
        self.sequence += 1
        for ordinal, (device, at) in enumerate(devices):
            await self.owner.execute(
                "INSERT INTO event (sequence, ordinal, tenant_id, device_id, name, observed_at, received_at)"
                " VALUES ($1, $2, $3, $4, 'alarm', $5, $5)",
                self.sequence, ordinal, self.tenant_of[device], device, at,
            )  # fmt: skip
            self.events.append((device, at))

    async def trimmed(self) -> None:
        """The stream's trimmer has seen that everything is stored."""
        await self._reach("trim")

    async def _reach(self, consumer: str) -> None:
        await self.owner.execute(
            "INSERT INTO ingest_position (consumer, lane, sequence) VALUES ($1, 0, $2)"
            " ON CONFLICT (consumer, lane) DO UPDATE SET sequence = excluded.sequence",
            consumer, self.sequence,
        )  # fmt: skip

    async def _name(self, messages: Iterable[Message]) -> None:
        for device, _, values in messages:
            for name, value in values.items():
                key = (self.tenant_of[device], name, type_of(value))
                if key not in self.metrics:
                    self.metrics[key] = await self.owner.fetchval(
                        "INSERT INTO metric (tenant_id, name, type) VALUES ($1, $2, $3) RETURNING id", *key
                    )

    def id_of(self, device: UUID, name: str, value: Any) -> int:
        return self.metrics[self.tenant_of[device], name, type_of(value)]

    def _columns(self, message: Message) -> tuple[list[int], list[float], str | None]:
        device, _, values = message
        numbers = {
            self.id_of(device, name, value): float(value)
            for name, value in values.items()
            if type_of(value) in _ROLLED and abs(value) <= 2**53
        }
        extras = {
            str(self.id_of(device, name, value)): value
            for name, value in values.items()
            if self.id_of(device, name, value) not in numbers
        }
        return list(numbers), list(numbers.values()), json.dumps(extras) if extras else None

    def _row(self, message: Message, sequence: int) -> tuple[Any, ...]:
        device, at, _ = message
        return (self.tenant_of[device], device, at, at, sequence, 0, *self._columns(message))

    async def _roll_up(self, device: UUID, at: datetime, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if type_of(value) not in _ROLLED:
                continue
            for width, length in WIDTHS.items():
                key = (device, self.id_of(device, name, value), _EPOCH + (at - _EPOCH) // length * length)
                self.rollups[width][key] = self.rollups[width].get(key, 0) + 1
                if width == "1m":
                    continue
                await self.owner.execute(
                    f"INSERT INTO telemetry_{width} AS known VALUES ($1, $2, $3, $4, 1, $5, $5, $5, $5, $6, $5, $6)"
                    " ON CONFLICT (device_id, metric_id, bucket) DO UPDATE SET count = known.count + 1",
                    self.tenant_of[device], *key, float(value), at,
                )  # fmt: skip
        numbers = {
            self.id_of(device, name, value): float(value) for name, value in values.items() if type_of(value) in _ROLLED
        }
        if not numbers:
            return
        minute = _EPOCH + (at - _EPOCH) // WIDTHS["1m"] * WIDTHS["1m"]
        # Now and then with all of its arrays, as of several messages.
        arrays = [list(numbers.values()), *[list(numbers.values()) if at.second % 2 else None] * 4]
        await self.owner.execute(
            "INSERT INTO telemetry_1m (tenant_id, device_id, bucket, first_at, last_at, count, metrics, sums, mins, maxs,"
            " firsts, lasts) VALUES ($1, $2, $3, $4, $4, 1, $5, $6, $7, $8, $9, $10)",
            self.tenant_of[device], device, minute, at, list(numbers), *arrays,
        )  # fmt: skip

    async def _latest(self, device: UUID, at: datetime, values: dict[str, Any]) -> None:
        key = (device, frozenset(self.id_of(device, name, value) for name, value in values.items()))
        if key not in self.latest or self.latest[key][0] < at:
            self.latest[key] = (at, values)
            await self.owner.execute(
                "INSERT INTO telemetry_latest VALUES ($1, $2, $3, $4, $4, 1, 1, $5, $6, $7)"
                " ON CONFLICT (device_id, metric_set) DO UPDATE SET observed_at = excluded.observed_at,"
                " metrics = excluded.metrics, numbers = excluded.numbers, extras = excluded.extras",
                self.tenant_of[device], device, json.dumps(sorted(key[1])).encode(), at,
                *self._columns((device, at, values)),
            )  # fmt: skip

    # --- what must be left -------------------------------------------------------------------------------------------

    async def expire(self) -> None:
        """Take out of the model what has expired today."""
        ends = {(one.parent, one.starts + i * DAY): one.ends for one in await list_partitions(self.owner)
                for i in range((one.ends - one.starts).days)}  # fmt: skip

        def gone(table: str, device: UUID, at: datetime, name: str | None) -> bool:
            end = ends.get((table, at.date()), at.date() + DAY)
            return end + self._days(device, name) * DAY <= self.today

        left = []
        for device, at, values in self.messages:
            kept = {name: value for name, value in values.items() if not gone("telemetry", device, at, name)}
            left += [(device, at, kept)] if kept else []
        self.messages = left
        self.events = [(device, at) for device, at in self.events if not gone("", device, at, None)]
        self.latest = {
            key: (at, {name: value for name, value in values.items() if not gone("", key[0], at, name)})
            for key, (at, values) in self.latest.items()
        }
        name_of = {i: name for (_, name, _), i in self.metrics.items()}
        for width, rows in self.rollups.items():
            table = f"telemetry_{width}"
            self.rollups[width] = {
                key: count for key, count in rows.items() if not gone(table, key[0], key[2], name_of[key[1]])
            }

    def _days(self, device: UUID, name: str | None) -> int:
        definition = self.profiles[self.profile_of[device]][1]
        own = {metric.name: metric.retention_days for metric in definition.metrics}
        return own.get(name or "") or definition.retention_days

    async def check(self) -> None:
        """The tables hold exactly what the model does."""
        found = [
            (r["device_id"], r["observed_at"], r["metrics"], r["numbers"], json.loads(r["extras"] or "{}"))
            for r in await self.owner.fetch("SELECT * FROM telemetry")
        ]
        wanted = []
        for message in self.messages:
            metrics, numbers, extras = self._columns(message)
            wanted.append((message[0], message[1], metrics, numbers, json.loads(extras or "{}")))
        assert sorted(found, key=str) == sorted(wanted, key=str)
        assert sorted((r["device_id"], r["observed_at"]) for r in await self.owner.fetch("SELECT * FROM event")) == sorted(
            self.events
        )
        rows = await self.owner.fetch("SELECT * FROM telemetry_latest")
        assert len(rows) == len(self.latest)
        for row in rows:
            at, values = self.latest[row["device_id"], frozenset(json.loads(row["metric_set"]))]
            metrics, numbers, extras = self._columns((row["device_id"], at, values))
            assert (row["observed_at"], row["metrics"], row["numbers"]) == (at, metrics, numbers)
            assert (row["extras"] and json.loads(row["extras"])) == (extras and json.loads(extras))
        assert await self.owner.fetchval(_MINUTES_IN_DISORDER) == 0
        for width in WIDTHS:
            rows = await self.owner.fetch(_MINUTES if width == "1m" else _BUCKETS.format(width))
            assert {tuple(row)[:3]: row["count"] for row in rows} == self.rollups[width], width

    # --- at random ---------------------------------------------------------------------------------------------------

    def random_messages(self, rng: random.Random, count: int, days_back: int) -> list[Message]:
        devices = sorted(self.tenant_of)
        now = to_datetime(self.clock.now_us())
        return [(rng.choice(devices), now - DAY * days_back * rng.random() ** 2, _random_values(rng)) for _ in range(count)]


def _random_values(rng: random.Random) -> dict[str, Any]:
    everything = {
        "x": rng.choice([rng.random(), "text", 7]),
        "y": rng.random(),
        "z": rng.choice([True, 2**60 + 1]),
        "place": [52.5, rng.random()],
        "detail": {"n": [1, None]},
    }
    return {name: everything[name] for name in rng.sample(sorted(everything), rng.randint(1, 5))}


def _json(definition: ProfileDefinition) -> str:
    return msgspec.json.encode(definition).decode()
