"""Attributes that devices report, merged leaf by leaf into `device_state.reported`.

Each leaf keeps its own stamp (observed_at, epoch, sequence): a late record changes only those leaves that nobody has said
anything newer about. A forgotten attribute leaves its stamp behind, so that an older value does not bring it back.

What one device may report is bounded, in number and in bytes; what is beyond it is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from headwater.store.columns import pack_jsonb
from headwater.store.writer_batch import Attributes, Leaf

LEAVES_MAX = 1_000
REPORTED_BYTES_MAX = 512 * 1024
"""What one device may report: room for the longest string that ingest lets through, and a document that people can read."""
FORGOTTEN_MAX = 100
NAME_LENGTH_MAX = 200
DEVICES_MAX = 128
"""Devices merged by one statement: 64 MiB, if all of them report as much as they may."""

_encode = msgspec.json.Encoder().encode


class Merged(NamedTuple):
    """changed: whether anything was newer. left_out: leaves for which there was no room."""

    reported: dict[str, Any]
    forgotten: dict[str, Any]
    changed: bool
    left_out: int


async def merge_attributes(connection: Any, attributes: Mapping[bytes, Attributes]) -> int:
    """Returns how many leaves were left out.

    Rows are locked in the order of the devices, so that two consumers wait for each other and never both.
    """
    devices = sorted(attributes)
    return sum([await _merge_some(connection, attributes, some) for some in _pieces(devices)])


def _pieces(devices: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(devices), DEVICES_MAX):
        yield devices[start : start + DEVICES_MAX]


async def _merge_some(connection: Any, attributes: Mapping[bytes, Attributes], devices: Sequence[bytes]) -> int:
    ids = [UUID(bytes=device) for device in devices]
    tenants = [UUID(bytes=attributes[device].tenant) for device in devices]
    await connection.execute(
        """
        INSERT INTO device_state (tenant_id, device_id)
        SELECT d.tenant_id, d.id FROM unnest($1::uuid[], $2::uuid[]) AS wanted(tenant_id, id)
        JOIN device d ON d.id = wanted.id AND d.tenant_id = wanted.tenant_id
        ORDER BY d.id
        ON CONFLICT (device_id) DO NOTHING
        """,
        tenants, ids,
    )  # fmt: skip
    rows = await connection.fetch(
        """
        SELECT device_id, reported, forgotten FROM device_state
        JOIN unnest($1::uuid[], $2::uuid[]) AS wanted(tenant_id, device_id) USING (tenant_id, device_id)
        ORDER BY device_id FOR UPDATE OF device_state
        """,
        tenants, ids,
    )  # fmt: skip
    merged = [
        (row["device_id"], merge(row["reported"], row["forgotten"], attributes[row["device_id"].bytes].leaves))
        for row in rows
    ]
    changed = [(device, of.reported, of.forgotten) for device, of in merged if of.changed]
    if changed:
        await connection.execute(
            """
            UPDATE device_state AS s SET reported = new.reported, forgotten = new.forgotten, version = s.version + 1
            FROM unnest($1::uuid[], $2::jsonb[], $3::jsonb[]) AS new(device_id, reported, forgotten)
            WHERE s.device_id = new.device_id
            """,
            *zip(*changed, strict=True),
        )
    return sum(of.left_out for _, of in merged)


def merge(reported: dict[str, Any], forgotten: dict[str, Any], leaves: Mapping[str, Leaf]) -> Merged:
    """Changes `reported` and `forgotten`."""
    changed, left_out = False, 0
    room = REPORTED_BYTES_MAX - len(_encode(reported))
    for raw_name, leaf in leaves.items():
        name = raw_name.replace("\0", "\ufffd")[:NAME_LENGTH_MAX]
        known = reported.get(name) or forgotten.get(name)
        if known is not None and leaf.stamp <= (known["observed_at"], *known["order"]):
            continue
        stamp = {"observed_at": leaf.stamp[0], "order": list(leaf.stamp[1:])}
        entry = None if leaf.value is None else {"value": _clean(leaf.value), **stamp}
        grown = _size(name, entry) - _size(name, reported.get(name))
        if entry is not None and (grown > max(room, 0) or (name not in reported and len(reported) >= LEAVES_MAX)):
            left_out += 1
            continue
        room -= grown
        if entry is None:
            reported.pop(name, None)
            forgotten[name] = stamp
        else:
            forgotten.pop(name, None)
            reported[name] = entry
        changed = True
    if len(forgotten) > FORGOTTEN_MAX:
        oldest_first = sorted(forgotten, key=lambda name: (forgotten[name]["observed_at"], *forgotten[name]["order"]))
        for name in oldest_first[:-FORGOTTEN_MAX]:
            del forgotten[name]
    return Merged(reported, forgotten, changed, left_out)


def _size(name: str, entry: object) -> int:
    return 0 if entry is None else len(_encode({name: entry}))


def _clean(value: Any) -> Any:
    """As JSON that jsonb takes."""
    return msgspec.Raw(pack_jsonb(_encode(value))[5:])
