"""Attributes that devices report, merged leaf by leaf into `device_state.reported`.

Each leaf keeps its own stamp (observed_at, epoch, sequence): a late record changes only those leaves that nobody has said
anything newer about. A forgotten attribute leaves its stamp behind, so that an older value does not bring it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from headwater.store.columns import pack_jsonb, to_json
from headwater.store.writer_batch import Attributes, Leaf

LEAVES_MAX = 1_000
"""Attributes that one device may report; those beyond are not kept."""
FORGOTTEN_MAX = 100
NAME_LENGTH_MAX = 200

_encode = msgspec.json.Encoder().encode


async def merge_attributes(connection: Any, attributes: Mapping[bytes, Attributes]) -> None:
    """Rows are locked in the order of the devices, so that two consumers wait for each other and never both."""
    devices = sorted(attributes)
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
        WHERE device_id = ANY ($1::uuid[]) ORDER BY device_id FOR UPDATE
        """,
        ids,
    )
    changed = []
    for row in rows:
        merged = merge(row["reported"], row["forgotten"], attributes[row["device_id"].bytes].leaves)
        if merged is not None:
            changed.append((row["device_id"], *merged))
    if changed:
        await connection.execute(
            """
            UPDATE device_state AS s SET reported = new.reported, forgotten = new.forgotten, version = s.version + 1
            FROM unnest($1::uuid[], $2::jsonb[], $3::jsonb[]) AS new(device_id, reported, forgotten)
            WHERE s.device_id = new.device_id
            """,
            *zip(*changed, strict=True),
        )


def merge(
    reported: dict[str, Any], forgotten: dict[str, Any], leaves: Mapping[str, Leaf]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The new (reported, forgotten), or None where nothing is newer."""
    changed = False
    for raw_name, leaf in leaves.items():
        name = raw_name.replace("\0", "\ufffd")[:NAME_LENGTH_MAX]
        known = reported.get(name) or forgotten.get(name)
        if known is not None and leaf.stamp <= (known["observed_at"], *known["order"]):
            continue
        stamp = {"observed_at": leaf.stamp[0], "order": list(leaf.stamp[1:])}
        if leaf.value is None:
            reported.pop(name, None)
            forgotten[name] = stamp
        elif name in reported or len(reported) < LEAVES_MAX:
            forgotten.pop(name, None)
            reported[name] = {"value": _clean(leaf.value), **stamp}
        else:
            continue
        changed = True
    while len(forgotten) > FORGOTTEN_MAX:
        del forgotten[min(forgotten, key=lambda name: forgotten[name]["observed_at"])]
    return (reported, forgotten) if changed else None


def _clean(value: Any) -> Any:
    """As JSON that jsonb takes."""
    return msgspec.Raw(pack_jsonb(_encode(to_json(value)))[5:])
