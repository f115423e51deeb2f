"""Bulk import: many devices, a bad line costs itself only. Set-based: some ten statements for 1,000 lines.

A chunk of lines is one transaction; what came before a failure stays, and the same file can simply be imported again. A
line that names the same device as an earlier one finds what the earlier one left: it starts a new chunk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET

from headwater.database.session import Database
from headwater.device.credentials import KEPT_MAX, LIVE_MAX
from headwater.device.device import Status, merge_attributes, merge_labels
from headwater.device.errors import DeviceInvalid, ImportInvalid
from headwater.device.filter_sql import FROM, Parameters
from headwater.device.import_lines import CSVReader, Line, LineProblem, LineSplitter, NDJSONReader
from headwater.device.ports import Audit, RegistryEvents
from headwater.device.postgres import lock_usage
from headwater.device.profiles import DEFAULT
from headwater.device.visibility import require_whole_tenant, restriction
from headwater.ids import uuid7
from headwater.tenancy import secrets
from headwater.tenancy.errors import TenantQuotaReached
from headwater.tenancy.scope import TenantScope

CHUNK_LINES = 1000
"""One transaction: long enough that its fixed cost vanishes, short enough that a quota's lock is held for some 50 ms."""


class FileFormat(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"


class ImportMode(StrEnum):
    """Of a device that exists (create: left alone) or does not (update: a bad line)."""

    CREATE = "create"
    UPDATE = "update"
    UPSERT = "upsert"


class ImportCredentials(StrEnum):
    """new: for devices made now; rotate: also a further one for those that existed, whose earlier ones go on working."""

    NONE = "none"
    NEW = "new"
    ROTATE = "rotate"


class Outcome(StrEnum):
    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    EXISTS = "exists"
    BAD = "bad"


class LineResult(msgspec.Struct, omit_defaults=True):
    """id and external_id of the device; client_id, username, password of a credential made; column, code and reason of
    what is bad. Its repr hides the secret."""

    line: int
    outcome: Outcome
    external_id: str = ""
    id: UUID | None = None
    client_id: str = ""
    username: str = ""
    password: str = ""
    column: str = ""
    code: str = ""
    reason: str = ""

    def __repr__(self) -> str:
        return f"LineResult(line={self.line}, outcome={self.outcome}, id={self.id}, code={self.code!r})"


class ImportSummary(msgspec.Struct):
    lines: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    exists: int = 0
    bad: int = 0
    credentials: int = 0

    def count(self, result: LineResult) -> None:
        self.lines += 1
        setattr(self, result.outcome.value, getattr(self, result.outcome.value) + 1)
        if result.password:
            self.credentials += 1


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """profile: of lines that name none"""

    format: FileFormat = FileFormat.CSV
    mode: ImportMode = ImportMode.CREATE
    credentials: ImportCredentials = ImportCredentials.NONE
    profile: str = DEFAULT


@dataclass(frozen=True, slots=True)
class ImportService:
    database: Database
    events: RegistryEvents
    audit: Audit

    async def run(self, scope: TenantScope, body: AsyncIterator[bytes], options: ImportOptions) -> AsyncIterator[LineResult]:
        """One result a line, in the file's order within a chunk. Raises ImportInvalid before the first line is touched."""
        scope.require("device:write")
        if options.credentials is not ImportCredentials.NONE:
            scope.require("credential:write")
        if options.mode is not ImportMode.UPDATE:
            require_whole_tenant(scope, "make devices; import with mode=update")
        chunk: dict[str, Line] = {}
        problems: list[LineProblem] = []
        async for line in _lines(body, options.format):
            if isinstance(line, LineProblem):
                problems.append(line)
            elif line.external_id in chunk:
                for result in await self._import(scope, chunk, problems, options):
                    yield result
                chunk, problems = {line.external_id: line}, []
            else:
                chunk[line.external_id] = line
            if len(chunk) + len(problems) >= CHUNK_LINES:
                for result in await self._import(scope, chunk, problems, options):
                    yield result
                chunk, problems = {}, []
        for result in await self._import(scope, chunk, problems, options):
            yield result

    async def _import(
        self, scope: TenantScope, chunk: dict[str, Line], problems: Sequence[LineProblem], options: ImportOptions
    ) -> list[LineResult]:
        results = [_bad(p.number, p.code, p.reason, column=p.column) for p in problems]
        if chunk:
            work = _Chunk(scope, options, chunk)
            async with self.database.tenant_session(scope.tenant_id) as connection:
                await work.run(connection)
                if work.touched:
                    await self.audit.record(
                        connection, scope, "device:import", f"tenant:{scope.tenant_id}", {"devices": work.touched}
                    )
            for noun, identifier, event in work.events:
                await self.events.publish(scope.tenant_id, noun, identifier, event)
            results += work.results
        return sorted(results, key=lambda result: result.line)


async def _lines(body: AsyncIterator[bytes], form: FileFormat) -> AsyncIterator[Line | LineProblem]:
    splitter = LineSplitter(quoted=form is FileFormat.CSV)
    reader: CSVReader | NDJSONReader = CSVReader() if form is FileFormat.CSV else NDJSONReader()
    empty = True
    async for data in body:
        for raw in splitter.feed(data):
            empty = False
            line = reader.read(raw)
            if line is not None:
                yield line
    for raw in splitter.finish():
        empty = False
        line = reader.read(raw)
        if line is not None:
            yield line
    if empty and form is FileFormat.CSV:
        raise ImportInvalid("the file is empty: it needs a header at least")


class _Chunk:
    """One transaction's worth of lines, each naming another device."""

    def __init__(self, scope: TenantScope, options: ImportOptions, lines: dict[str, Line]) -> None:
        self.results: list[LineResult] = []
        self.events: list[tuple[str, UUID, str]] = []
        self.touched = 0
        self._scope = scope
        self._options = options
        self._lines = lines
        self._profiles: dict[str, UUID] = {}
        self._credentials: list[LineResult] = []

    async def run(self, connection: Any) -> None:
        names = {line.profile for line in self._lines.values() if line.profile is not UNSET} | {self._options.profile}
        rows = await connection.fetch("SELECT name, id FROM profile WHERE name = ANY($1) FOR KEY SHARE", sorted(names))
        self._profiles = {row["name"]: row["id"] for row in rows}
        existing = {row["external_id"]: row for row in await self._lock_existing(connection)}
        known = [line for line in self._lines.values() if line.external_id in existing]
        unknown = [line for line in self._lines.values() if line.external_id not in existing]
        if self._options.mode is ImportMode.UPDATE:
            self.results += [_bad(n.number, "device.not_found", "no such device", line=n) for n in unknown]
        else:
            await self._create(connection, unknown)
        if self._options.mode is ImportMode.CREATE:
            for line in known:
                row = existing[line.external_id]
                result = LineResult(line.number, Outcome.EXISTS, line.external_id, row["id"])
                self._add(result, existed=True, status=row["status"])
        else:
            await self._update(connection, [(line, existing[line.external_id]) for line in known])
        await self._issue(connection)

    def _add(self, result: LineResult, *, existed: bool, status: str) -> None:
        self.results.append(result)
        wanted = {ImportCredentials.ROTATE} if existed else {ImportCredentials.NEW, ImportCredentials.ROTATE}
        if self._options.credentials in wanted and status != Status.DECOMMISSIONED:
            self._credentials.append(result)

    async def _lock_existing(self, connection: Any) -> Any:
        """In one order, so that two imports of the same devices wait for each other instead of deadlocking."""
        parameters = Parameters(list(self._lines))
        visible = await restriction(connection, self._scope, parameters)
        columns = "d.id, d.external_id, d.name, d.profile_id, d.status, d.labels, d.attributes, s.epoch"
        statement = (
            f"SELECT {columns} FROM {FROM} WHERE d.external_id = ANY($1::text[]) AND ({visible})"  # noqa: S608  # made by restriction
            " ORDER BY d.external_id FOR UPDATE OF d"
        )
        return await connection.fetch(statement, *parameters.values)

    async def _create(self, connection: Any, lines: list[Line]) -> None:
        lines = [line for line in lines if self._has_profile(line)]
        if not lines:
            return
        quotas, devices = await lock_usage(connection, self._scope.tenant_id)
        room = max(0, quotas.devices_max - devices)
        for line in lines[room:]:
            reason = f"the tenant's quota is {quotas.devices_max} devices"
            self.results.append(_bad(line.number, TenantQuotaReached.code, reason, line=line))
        lines = lines[:room]
        rows = await connection.fetch(
            "INSERT INTO device (id, tenant_id, external_id, name, profile_id, status, labels, attributes)"
            " SELECT n.id, $1, n.external_id, n.name, n.profile_id, n.status, n.labels, n.attributes"
            " FROM unnest($2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::jsonb[], $8::jsonb[])"
            " AS n(id, external_id, name, profile_id, status, labels, attributes)"
            " ON CONFLICT (tenant_id, external_id) DO NOTHING RETURNING external_id, id",
            self._scope.tenant_id,
            sorted(uuid7() for _ in lines),  # in the file's order, also within one millisecond
            [line.external_id for line in lines],
            [line.name or "" for line in lines],
            [self._profiles[line.profile or self._options.profile] for line in lines],
            [line.status or Status.REGISTERED for line in lines],
            [merge_labels({}, line.labels) for line in lines],
            [merge_attributes({}, line.attributes) if line.attributes else {} for line in lines],
        )
        made = {row["external_id"]: row["id"] for row in rows}
        self.touched += len(made)
        for line in lines:
            if line.external_id in made:
                result = LineResult(line.number, Outcome.CREATED, line.external_id, made[line.external_id])
                self._add(result, existed=False, status=line.status or Status.REGISTERED)
            else:  # somebody else was faster, between our look and our insert
                self.results.append(LineResult(line.number, Outcome.EXISTS, line.external_id))

    async def _update(self, connection: Any, pairs: list[tuple[Line, Any]]) -> None:
        changed = []
        for line, row in pairs:
            if not self._has_profile(line):
                continue
            try:
                new = self._merged(line, row)
            except DeviceInvalid as error:
                self.results.append(_bad(line.number, error.code, error.detail, column=error.field, line=line))
                continue
            differs = any(new[column] != row[column] for column in new)
            outcome = Outcome.UPDATED if differs else Outcome.UNCHANGED
            self._add(LineResult(line.number, outcome, line.external_id, row["id"]), existed=True, status=new["status"])
            if differs:
                changed.append(new)
                self.events.append(("device", row["id"], _event(row["status"], new["status"])))
        if not changed:
            return
        self.touched += len(changed)
        await connection.execute(
            "UPDATE device d SET name = n.name, profile_id = n.profile_id, status = n.status, labels = n.labels,"
            " attributes = n.attributes, version = d.version + 1, updated_at = now()"
            " FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::jsonb[], $6::jsonb[])"
            " AS n(id, name, profile_id, status, labels, attributes) WHERE d.id = n.id",
            *([new[column] for new in changed] for column in ("id", "name", "profile_id", "status", "labels", "attributes")),
        )

    def _merged(self, line: Line, row: Any) -> dict[str, Any]:
        new: dict[str, Any] = dict(row)
        del new["epoch"]
        if line.name is not UNSET:
            new["name"] = line.name
        if line.profile is not UNSET:
            new["profile_id"] = self._profiles[line.profile]
        if line.status is not UNSET:
            new["status"] = _status_after(row, line.status)
        if line.labels:
            new["labels"] = merge_labels(row["labels"], line.labels)
        if line.attributes:
            new["attributes"] = merge_attributes(row["attributes"], line.attributes)
        if row["status"] == Status.DECOMMISSIONED and any(new[column] != row[column] for column in new):
            raise DeviceInvalid("the device is decommissioned, which is final", "status")
        return new

    def _has_profile(self, line: Line) -> bool:
        name = line.profile or self._options.profile
        if name in self._profiles:
            return True
        reason = f"there is no profile {name!r}"
        self.results.append(_bad(line.number, "device.invalid", reason, column="profile", line=line))
        return False

    async def _issue(self, connection: Any) -> None:
        if not self._credentials:
            return
        tokens = [secrets.mint(secrets.DEVICE, uuid7()) for _ in self._credentials]
        devices = [result.id for result in self._credentials]
        await connection.execute(
            "INSERT INTO device_credential (id, tenant_id, device_id, kind, secret_hash)"
            " SELECT n.id, $1, n.device_id, 'token', n.hash FROM unnest($2::uuid[], $3::uuid[], $4::bytea[])"
            " AS n(id, device_id, hash)",
            self._scope.tenant_id, [token.row_id for token in tokens], devices, [token.digest for token in tokens],
        )  # fmt: skip
        for result, token in zip(self._credentials, tokens, strict=True):
            result.client_id = result.username = str(result.id)
            result.password = token.text
        if self._options.credentials is ImportCredentials.ROTATE:
            await self._trim(connection, devices)

    async def _trim(self, connection: Any, devices: list[UUID | None]) -> None:
        """To the bounds of `credentials.py`: the oldest working ones are revoked, the oldest dead ones forgotten."""
        revoked = await connection.fetch(
            "UPDATE device_credential SET revoked_at = now() WHERE id IN ("
            " SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY device_id ORDER BY id DESC) AS place"
            "  FROM device_credential WHERE device_id = ANY($1) AND revoked_at IS NULL"
            "  AND (expires_at IS NULL OR expires_at > now())) AS live WHERE place > $2) RETURNING id",
            devices, LIVE_MAX,
        )  # fmt: skip
        self.events += [("credential", row["id"], "revoked") for row in revoked]
        await connection.execute(
            "DELETE FROM device_credential WHERE id IN ("
            " SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY device_id ORDER BY id DESC) AS place"
            "  FROM device_credential WHERE device_id = ANY($1)"
            "  AND (revoked_at IS NOT NULL OR expires_at <= now())) AS dead WHERE place > $2)",
            devices, KEPT_MAX,
        )  # fmt: skip


def _status_after(row: Any, wanted: Status) -> Status:
    """A file may suspend and resume; registered and active are the platform's own knowledge."""
    old = Status(row["status"])
    if wanted is old:
        return wanted
    if old is Status.DECOMMISSIONED:
        raise DeviceInvalid("the device is decommissioned, which is final", "status")
    if wanted is Status.SUSPENDED:
        return wanted
    if wanted is Status.DECOMMISSIONED:
        raise DeviceInvalid("a device that exists is not decommissioned by a file", "status")
    if old is Status.SUSPENDED:
        return Status.ACTIVE if row["epoch"] else Status.REGISTERED
    return old


def _event(old: str, new: str) -> str:
    if old == new:
        return "changed"
    return "suspended" if new == Status.SUSPENDED else "resumed"


def _bad(number: int, code: str, reason: str, *, column: str = "", line: Line | None = None) -> LineResult:
    return LineResult(number, Outcome.BAD, line.external_id if line else "", column=column, code=code, reason=reason)
