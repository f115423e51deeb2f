"""The door: who may come in now, who waits outside, and who is told to come again later.

Pure: it is told the time, and it drops nobody itself. What it bounds, in the order in which a connection meets it:

- accepting: so many a second, and not while as many as we can serve soon wait for their authentication. What is not
  accepted waits in the kernel, so a storm is let in gradually and nobody in it is refused.
- connecting (accepted, and no CONNECT yet): a bounded number, and of each address. When hardly a place comes free by itself,
  whoever takes longer than PATIENCE_S makes room for the next: a flood of half-open handshakes pushes out itself.
- asking: a credential or an identity that failed again and again is answered from here, with growing pauses, an address
  at a pace, and PostgreSQL is not asked.

Many good devices share an address (NAT, a site's router), so an address is the last to be blamed: its bounds are wide, and
it is never paused as a whole. A credential that was good before, or that is the right one by what the registry said when
others failed in its name, passes whatever is held against its identity and its address: nobody can lock a device out by
failing in its name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

from headwater.device.authentication import Presented, WrongToken
from headwater.errors import DomainError, Unauthenticated
from headwater.gateway.mqtt.addresses import Network, judged_host
from headwater.gateway.mqtt.back_off import BackOff, BackOffRule, Recent, TokenBucket
from headwater.gateway.mqtt.visitor import Refusal, Visitor, drop_nobody
from headwater.tenancy import secrets

PATIENCE_S = 3.0
"""So long somebody who connects is left alone even when the places run out: a TLS handshake is two round trips."""
STUCK_SHARE = 8
"""Nobody is pushed out while an eighth of the places come free by themselves each second: then it is a storm, whose
handshakes are slow because there are so many, and the next ones can wait."""
PUSH_OUTS_AT_ONCE = 4
PAUSE_S = 0.05
"""How soon a full house is looked at again."""
BREATH_S = 0.005
"""A pace is kept in handfuls: to stop and go for each connection costs more than the connection."""


class ConnectionRateExceeded(DomainError):
    """It failed too often lately; it is looked at again after a pause."""

    code = "connection.rate_exceeded"


class GatewayFull(DomainError):
    """No room here now."""

    code = "gateway.full"


class UseAnotherServer(DomainError):
    """No room here; `server_reference` says where there is."""

    code = "gateway.use_another_server"


@dataclass(frozen=True, slots=True)
class DoorRules:
    """0 = no such limit."""

    connections_max: int = 200_000
    connects_per_s: int = 2_000
    """More than one process can authenticate: the pace of a storm is set by `waiting_max`, this keeps handshakes from
    taking the whole processor from those who are in."""
    connecting_max: int = 1_024
    """Accepted and without CONNECT; a tenth of a MiB of sockets and handshakes each at the worst."""
    waiting_max: int = 2_048
    """CONNECTs that wait for their authentication. Nobody is accepted while half of it is used, so that those who are
    accepted already still find room."""
    address_connects_per_s: int = 1_000
    address_connecting_max: int = 256
    exempt: tuple[Network, ...] = ()
    """whose addresses are not judged: load generators, a proxy that hides its clients"""
    server_reference: str = ""
    """where version 5 clients are sent when this gateway is full or stops"""


CREDENTIAL = BackOffRule(free=3, first_s=1.0, longest_s=60.0)
"""The very same user name and password: a device that nobody has registered, or whose token was revoked."""
IDENTITY = BackOffRule(free=20, first_s=1.0, longest_s=30.0)
"""The same user name or token id with changing secrets: somebody guesses."""
ADDRESS_FAILURES = 200
ADDRESS_FAILURES_PER_S = 20
"""Of one address, at once and then each second. A pace and no pause: a hundred misconfigured devices behind one router,
which are each looked at less and less, leave room for a good one that has never been here."""


class Guest(Protocol):
    """What the door sees of a connection that asks to come in."""

    visitor: Visitor | None
    address: str


class Door:
    """now: seconds of a clock that only rises"""

    def __init__(self, rules: DoorRules, now: Callable[[], float]) -> None:
        self._rules = rules
        self._now = now
        self._pace = TokenBucket(rules.connects_per_s, rules.connects_per_s, now()) if rules.connects_per_s else None
        self._connecting: OrderedDict[Visitor, None] = OrderedDict()
        self._came_free = 0
        self._counted_since = now()
        self._is_stuck = False
        # As many as grow too old in a second: they came in a rush, and must not go, and let the next ones in, in another.
        self._push_outs = TokenBucket(max(1, rules.connecting_max) / PATIENCE_S, PUSH_OUTS_AT_ONCE, now())
        self._by_host: dict[str, OrderedDict[Visitor, None]] = {}
        self._paces: Recent[str, TokenBucket] = Recent()
        self._credentials = BackOff(CREDENTIAL)
        self._identities = BackOff(IDENTITY)
        self._hashes: Recent[str, bytes] = Recent()
        """of the secrets of identities in whose name somebody failed"""
        self._addresses: Recent[str, TokenBucket] = Recent()
        self._good: Recent[int, bool] = Recent()
        self._waiting = 0
        self.inside = 0
        """connections, from CONNECT-less ones on; the listener counts"""
        self.closing = False
        self.refused_total = 0
        """connections that were answered from here, without a question to the registry"""

    @property
    def connecting(self) -> int:
        return len(self._connecting)

    @property
    def waiting(self) -> int:
        return self._waiting

    # -- accepting ------------------------------------------------------------------------------------------------------

    def wait_s(self) -> float:
        """How long nobody is to be accepted; 0 = the next may come."""
        rules, now = self._rules, self._now()
        if rules.waiting_max and self._waiting >= max(1, rules.waiting_max // 2):
            return PAUSE_S
        if rules.connecting_max and len(self._connecting) >= rules.connecting_max:
            if not self._may_push_out(now):
                return PAUSE_S
            if (wait_s := self._push_outs.wait_s(now)) > 0:
                return max(wait_s, BREATH_S)
        wait_s = self._pace.wait_s(now) if self._pace is not None else 0.0
        return max(wait_s, BREATH_S) if wait_s > 0 else 0.0

    def _may_push_out(self, now: float) -> bool:
        """The house is full. Hardly a place came free in the last second, and somebody has had one for long."""
        passed_s = now - self._counted_since
        if passed_s >= 1.0:
            # Beyond two seconds nobody has asked: it was not full, and what was counted says nothing.
            self._is_stuck = passed_s < 2.0 and self._came_free < passed_s * self._rules.connecting_max / STUCK_SHARE
            self._came_free, self._counted_since = 0, now
        return self._is_stuck and now >= next(iter(self._connecting)).since + PATIENCE_S

    def enter(self, address: str) -> Visitor:
        """Somebody was accepted. Where the places are used up, whoever has had one for longest goes."""
        now = self._now()
        if self._pace is not None:
            self._pace.take()
        while self._rules.connecting_max and len(self._connecting) >= self._rules.connecting_max:
            self._push_outs.take()
            self._push_out(next(iter(self._connecting)), "took too long while others waited")
        visitor = Visitor(address, now)
        self._connecting[visitor] = None
        return visitor

    def identify(self, visitor: Visitor, address: str) -> Refusal | None:
        """Where the visitor is from (a proxy may have told). Returns why it may not stay."""
        visitor.address = address
        host = judged_host(address, self._rules.exempt)
        if host is None:
            return None
        rules, now = self._rules, self._now()
        if rules.address_connects_per_s:
            pace = self._paces.find(host)
            if pace is None:
                pace = TokenBucket(rules.address_connects_per_s, rules.address_connects_per_s, now)
                self._paces.put(host, pace)
            if pace.wait_s(now) > 0:
                return Refusal("accept", "connection.rate_exceeded", "too many new connections a second from this address")
            pace.take()
        mine = self._by_host.setdefault(host, OrderedDict())
        if rules.address_connecting_max and len(mine) >= rules.address_connecting_max:
            oldest = next(iter(mine))
            if now - oldest.since < PATIENCE_S:
                return Refusal("accept", "connection.too_many", "too many connections without a CONNECT from this address")
            self._push_out(oldest, "took too long while others from its address waited")
            mine = self._by_host.setdefault(host, mine)
        mine[visitor] = None
        visitor.host = host
        return None

    def leave(self, visitor: Visitor) -> None:
        """It has sent its CONNECT, or it is gone. Any number of times."""
        visitor.is_here = False
        visitor.drop = visitor.refuse = drop_nobody  # which held the connection, and the connection the visitor
        if visitor in self._connecting:
            del self._connecting[visitor]
            self._came_free += 1
        mine = self._by_host.get(visitor.host)
        if mine is not None:
            mine.pop(visitor, None)
            if not mine:
                del self._by_host[visitor.host]

    def _push_out(self, visitor: Visitor, detail: str) -> None:
        drop = visitor.drop
        self.leave(visitor)
        self._came_free -= 1
        drop(Refusal("accept", "connection.too_slow", detail))

    # -- asking ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def asking(self, guest: Guest, presented: Presented, *, conclusive: bool = True) -> Iterator[None]:
        """While the registry is asked who somebody is, who has sent a CONNECT. Learns from the answer.

        conclusive  no error means that the credential is good, and not just that the exchange goes on

        Raises ConnectionRateExceeded, GatewayFull, UseAnotherServer instead of asking.
        """
        if guest.visitor is not None:
            self.leave(guest.visitor)
            guest.visitor = None
        claim = Claim.of(guest.address, presented, self._rules.exempt)
        try:
            self._may_ask(claim, presented)
        except DomainError:
            self.refused_total += 1
            raise
        self._waiting += 1
        try:
            yield
        except Unauthenticated as error:
            self._failed(claim, error)
            raise
        else:
            if conclusive:
                self._succeeded(claim)
        finally:
            self._waiting -= 1

    def _may_ask(self, claim: Claim, presented: Presented) -> None:
        rules, now = self._rules, self._now()
        full = bool(rules.connections_max) and self.inside > rules.connections_max
        if full or self.closing:
            said = "the gateway stops" if self.closing else "this gateway has no connections left"
            if rules.server_reference:
                raise UseAnotherServer(said, server_reference=rules.server_reference)
            raise GatewayFull(said)
        if rules.waiting_max and self._waiting >= rules.waiting_max:
            raise GatewayFull("too many connections wait for their authentication")
        self._judge(claim, presented, now)

    def _judge(self, claim: Claim, presented: Presented, now: float) -> None:
        """Raises ConnectionRateExceeded, which says what is held against whom."""
        held = [("this credential", self._credentials.left_s(claim.credential, now) if claim.credential else 0.0)]
        if claim.credential not in self._good and not self._is_right(claim, presented):
            held.append(("this name", self._identities.left_s(claim.identity, now) if claim.identity else 0.0))
            failures = self._addresses.find(claim.host) if claim.host is not None else None
            held.append(("this address", failures.wait_s(now) if failures is not None else 0.0))
        whose, wait_s = max(held, key=itemgetter(1))
        if wait_s > 0:
            said = f"{whose} failed too often lately; not looked at for {wait_s:.1f} s"
            raise ConnectionRateExceeded(said, retry_after_s=wait_s)

    def _is_right(self, claim: Claim, presented: Presented) -> bool:
        """By the hash that others were measured by when they failed in this name."""
        secret_hash = self._hashes.find(claim.identity)
        if secret_hash is None:
            return False
        shown = secrets.parse(presented.token, secrets.DEVICE)
        return shown is not None and shown.matches(secret_hash)

    def _failed(self, claim: Claim, error: Unauthenticated) -> None:
        now = self._now()
        if claim.credential:
            self._good.forget(claim.credential)
            self._credentials.failed(claim.credential, now)
        if claim.identity:
            self._identities.failed(claim.identity, now)
            if isinstance(error, WrongToken):
                self._hashes.put(claim.identity, error.secret_hash)
        if claim.host is not None:
            failures = self._addresses.find(claim.host)
            if failures is None:
                failures = TokenBucket(ADDRESS_FAILURES_PER_S, ADDRESS_FAILURES, now)
                self._addresses.put(claim.host, failures)
            failures.wait_s(now)
            failures.take()

    def _succeeded(self, claim: Claim) -> None:
        """An address is not forgiven for one good device behind it: who guesses may have a good credential, too."""
        if claim.credential:
            self._good.put(claim.credential, True)
            self._credentials.forget(claim.credential)
        self._identities.forget(claim.identity)


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody says to be, as keys of tables; nothing in it is a secret."""

    credential: int
    """0 = showed nothing"""
    identity: str
    host: str | None

    @classmethod
    def of(cls, address: str, presented: Presented, exempt: Sequence[Network]) -> Claim:
        shown = (presented.username or None, presented.password or None, presented.certificate_der)
        # Python's own keyed hash: another process, another key, so the tables say nothing about the secrets.
        return cls(hash(shown) if any(shown) else 0, _identity(presented), judged_host(address, exempt))


def _identity(presented: Presented) -> str:
    """The token's id where one is shown, as user name or as password; the user name otherwise."""
    for text in (presented.username or "", (presented.password or b"")[:200].decode("utf-8", "replace")):
        token = secrets.parse(text, secrets.DEVICE)
        if token is not None:
            return token.row_id.hex
    return (presented.username or "")[:256]
