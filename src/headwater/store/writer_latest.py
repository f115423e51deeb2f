"""Latest values stay few: what newer messages say about every metric of an older one makes its row superfluous.

A device that reports only what has changed makes a row for each combination of metrics. Of those at most one a metric is
needed, and one for when the device was last heard; the others are deleted once there are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

ROWS_MAX = 32
"""Of one device, before anybody looks whether all are needed: reading so many costs no more than reading one."""

_CROWDED = """
SELECT device_id FROM telemetry_latest WHERE device_id = ANY ($1::uuid[])
GROUP BY device_id HAVING count(*) > $2
"""
_LOCK = """
SELECT device_id, metric_set FROM telemetry_latest WHERE device_id = ANY ($1::uuid[])
ORDER BY device_id, metric_set FOR UPDATE SKIP LOCKED
"""
_DELETE = """
WITH known AS (
    SELECT * FROM telemetry_latest WHERE device_id = ANY ($1::uuid[])
), said AS (
    SELECT device_id, metric_set, observed_at, epoch, record, unnest(metrics) AS metric FROM known
    UNION ALL
    SELECT device_id, metric_set, observed_at, epoch, record, jsonb_object_keys(extras)::integer FROM known
), needed AS (
    (SELECT DISTINCT ON (device_id, metric) device_id, metric_set FROM said
     ORDER BY device_id, metric, observed_at DESC, epoch DESC, record DESC)
    UNION
    (SELECT DISTINCT ON (device_id) device_id, metric_set FROM known ORDER BY device_id, received_at DESC)
)
DELETE FROM telemetry_latest AS row USING unnest($2::uuid[], $3::bytea[]) AS ours(device_id, metric_set)
WHERE row.device_id = ours.device_id AND row.metric_set = ours.metric_set
  AND (row.device_id, row.metric_set) NOT IN (SELECT device_id, metric_set FROM needed)
"""


async def prune_latest(connection: Any, devices: Sequence[UUID]) -> None:
    """For devices that have just got a row more; inside the transaction that gave it to them.

    Two statements, because the second must see what the locks of the first have waited for. A row that somebody else holds
    is left alone: it becomes newer, and so cannot make one superfluous that was needed.
    """
    crowded = [row["device_id"] for row in await connection.fetch(_CROWDED, devices, ROWS_MAX)]
    if crowded:
        ours = await connection.fetch(_LOCK, crowded)
        await connection.execute(_DELETE, crowded, [row["device_id"] for row in ours], [row["metric_set"] for row in ours])
