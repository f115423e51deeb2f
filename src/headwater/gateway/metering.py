"""How much of its tenant's message quota this gateway process has left, refilled ten times a second.

The hot path only counts down an integer. The quota is shared evenly by the gateways that are alive.
"""

from __future__ import annotations

from uuid import UUID

from headwater.tenancy.quotas import Quotas

REFILL_S = 0.1


class TenantMeter:
    """left: messages that may still come before the next refill; a connection that finds it below zero waits for that."""

    __slots__ = ("_received", "_refilled", "connections", "left", "message_bytes_max", "per_refill", "quotas")

    def __init__(self, quotas: Quotas) -> None:
        self.connections = 0
        self.per_refill = 0
        self.left = 0
        self._refilled = 0
        self._received = 0
        self.apply(quotas, 1)

    def apply(self, quotas: Quotas, gateways: int) -> None:
        self.quotas = quotas
        self.message_bytes_max = quotas.message_bytes_max
        self.per_refill = max(1, round(quotas.messages_per_s * REFILL_S / gateways)) if quotas.messages_per_s else 0
        self._received += self._refilled - self.left
        self.left = self._refilled = self.per_refill

    def refill(self) -> None:
        """A second's worth may gather, so that a burst after a pause is not refused."""
        self._received += self._refilled - self.left
        self.left = self._refilled = min(self.left + self.per_refill, 10 * self.per_refill)

    @property
    def received_total(self) -> int:
        return self._received + self._refilled - self.left


class Meters:
    """One meter a tenant that has connections here."""

    def __init__(self) -> None:
        self._meters: dict[UUID, TenantMeter] = {}
        self._gateways = 1

    def enter(self, tenant_id: UUID, quotas: Quotas) -> TenantMeter:
        """A connection of the tenant begins; newer quotas replace older ones."""
        meter = self._meters.get(tenant_id)
        if meter is None:
            meter = self._meters[tenant_id] = TenantMeter(quotas)
            meter.apply(quotas, self._gateways)
        elif meter.quotas != quotas:
            meter.apply(quotas, self._gateways)
        meter.connections += 1
        return meter

    def update(self, tenant_id: UUID, quotas: Quotas) -> None:
        """The operator has changed the quotas of a tenant that has connections here."""
        meter = self._meters.get(tenant_id)
        if meter is not None and meter.quotas != quotas:
            meter.apply(quotas, self._gateways)

    def leave(self, tenant_id: UUID) -> None:
        meter = self._meters[tenant_id]
        meter.connections -= 1
        if meter.connections == 0:
            del self._meters[tenant_id]

    def share(self, gateways: int) -> None:
        """How many gateways divide the quotas."""
        if gateways != self._gateways:
            self._gateways = gateways
            for meter in self._meters.values():
                meter.apply(meter.quotas, gateways)

    def each(self) -> list[tuple[UUID, TenantMeter]]:
        return list(self._meters.items())

    def refill(self) -> None:
        for meter in self._meters.values():
            meter.refill()
