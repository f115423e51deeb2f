"""The newest value of each metric of a device. Newest by (observed_at, epoch, record): late data never hides newer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from headwater.database.session import Database
from headwater.device.profile import MetricType
from headwater.store import query_sql
from headwater.store.query import DEVICES_LISTED_MAX, metric_rows, metrics_of, snapshot
from headwater.store.query_devices import DeviceSelection, select_devices
from headwater.store.query_series import MetricRow, restore, restore_extra
from headwater.tenancy.scope import TenantScope


class LatestValue(msgspec.Struct):
    value: Any
    type: MetricType
    observed_at: datetime
    received_at: datetime


class LatestValues(msgspec.Struct):
    """values: by metric name, in the order of the names."""

    device_id: UUID
    values: dict[str, LatestValue]


@dataclass(frozen=True, slots=True)
class LatestQueries:
    database: Database

    async def latest(
        self,
        scope: TenantScope,
        devices: DeviceSelection,
        metrics: Sequence[str] = (),
        *,
        devices_max: int = DEVICES_LISTED_MAX,
    ) -> list[LatestValues]:
        """One entry for every selected device, in the order of their ids; a device that has sent nothing has no values.

        Raises QueryTooLarge, QueryTooSlow, NotFound, FilterInvalid.
        """
        async with snapshot(self.database, scope) as connection:
            ids = await select_devices(connection, scope, devices, devices_max=devices_max, list_all=True)
            assert ids is not None
            if metrics:
                named = await metric_rows(connection, metrics)
                numbers = [row.id for row in named]
                rows = await connection.fetch(query_sql.LATEST_OF_METRICS, ids, numbers, [str(number) for number in numbers])
            else:
                rows = await connection.fetch(query_sql.LATEST, ids)
                named = await metrics_of(connection, rows)
        newest = _newest(rows, {metric.id: metric for metric in named})
        return [LatestValues(device, dict(sorted(newest.get(device, {}).items()))) for device in ids]


def _newest(rows: Sequence[Any], metrics: dict[int, MetricRow]) -> dict[UUID, dict[str, LatestValue]]:
    """Ascending, so that the last to write a name is the newest."""
    devices: dict[UUID, dict[str, LatestValue]] = {}
    for row in sorted(rows, key=lambda row: (row["observed_at"], row["epoch"], row["record"])):
        values = devices.setdefault(row["device_id"], {})
        at, received = row["observed_at"], row["received_at"]
        for number, stored in zip(row["metrics"], row["numbers"], strict=True):
            metric = metrics.get(number)
            if metric is not None:
                values[metric.name] = LatestValue(restore(metric.type, stored), metric.type, at, received)
        for key, document in (row["extras"] or {}).items():
            metric = metrics.get(int(key))
            if metric is not None:
                values[metric.name] = LatestValue(restore_extra(metric.type, document), metric.type, at, received)
    return devices
