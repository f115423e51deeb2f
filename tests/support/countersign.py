"""An enhanced authentication for tests: the gateway calls a number, the device answers with the next one."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.device.authentication import Authentication, Challenge, DeviceRefused, Exchange, Presented, Proven

CALL = b"41"


@dataclass
class Countersign:
    """Who answers right is who its credential says."""

    authentication: Authentication
    name: str = "countersign"

    def begin(self, presented: Presented) -> Exchange:
        return _Called(self.authentication, presented)


@dataclass
class _Called:
    authentication: Authentication
    presented: Presented
    called: bool = False

    async def answer(self, data: bytes | None) -> Challenge | Proven:
        if not self.called:
            self.called = True
            if data is not None:
                self.presented = Presented(password=data)
            return Challenge(CALL)
        if data != b"42":
            raise DeviceRefused("that is not the countersign")
        return Proven(await self.authentication.authenticate(self.presented), b"welcome")


def make(authentication: Authentication) -> Countersign:
    return Countersign(authentication)
