"""The door, on a clock of the test's own."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
from uuid import uuid4

import pytest

from headwater.device.authentication import DeviceRefused, Presented, WrongToken
from headwater.errors import Unavailable
from headwater.gateway.mqtt import back_off
from headwater.gateway.mqtt import visitor as visitor_module
from headwater.gateway.mqtt.addresses import judged_host
from headwater.gateway.mqtt.back_off import BackOff, BackOffRule, Recent, TokenBucket
from headwater.gateway.mqtt.door import (
    ADDRESS_FAILURES,
    ADDRESS_FAILURES_PER_S,
    CREDENTIAL,
    IDENTITY,
    PATIENCE_S,
    ConnectionRateExceeded,
    Door,
    DoorRules,
    GatewayFull,
    UseAnotherServer,
)
from headwater.gateway.mqtt.visitor import LoggedRefusals, Refusal, Visitor, drop_nobody
from headwater.tenancy import secrets


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Caller:
    """Somebody who has sent a CONNECT."""

    def __init__(self, address: str = "192.0.2.1:5000", visitor: Visitor | None = None) -> None:
        self.address = address
        self.visitor = visitor


@pytest.fixture
def time() -> Time:
    return Time()


def arrive(door: Door, address: str, dropped: list[tuple[str, Refusal]] | None = None) -> Visitor | Refusal:
    visitor = door.enter(address)
    if dropped is not None:
        visitor.drop = lambda refusal: dropped.append((address, refusal))
    refusal = door.identify(visitor, address)
    if refusal is not None:
        door.leave(visitor)
    return refusal or visitor


def fail(door: Door, presented: Presented, address: str = "192.0.2.1:5000") -> None:
    with pytest.raises(DeviceRefused), door.asking(Caller(address), presented):
        raise DeviceRefused("unknown")


def succeed(door: Door, presented: Presented, address: str = "192.0.2.1:5000") -> None:
    with door.asking(Caller(address), presented):
        pass


def succeed_as(door: Door, caller: Caller) -> None:
    with door.asking(caller, Presented("pump-1", b"right")):
        pass


# -- accepting ----------------------------------------------------------------------------------------------------------


def test_a_storm_is_let_in_at_its_pace(time: Time) -> None:
    door = Door(DoorRules(connects_per_s=100), time)
    let_in = 0
    for _ in range(40):  # 10 s in steps of 250 ms, with always somebody waiting
        while door.wait_s() == 0:
            door.leave(door.enter("192.0.2.1:1"))
            let_in += 1
        time.now += 0.25
    assert let_in == 100 + 39 * 25  # a second's worth at once, then as many as the pace says


def test_nobody_is_accepted_while_half_of_the_places_before_the_registry_are_used(time: Time) -> None:
    door = Door(DoorRules(waiting_max=4), time)
    with door.asking(Caller(), Presented("a", b"1")):
        assert door.wait_s() == 0
        with door.asking(Caller(), Presented("b", b"1")):
            assert door.wait_s() > 0
            with door.asking(Caller(), Presented("c", b"1")), door.asking(Caller(), Presented("d", b"1")):  # noqa: SIM117
                with pytest.raises(GatewayFull), door.asking(Caller(), Presented("e", b"1")):
                    raise AssertionError("there was no place")
    assert door.waiting == 0
    assert door.wait_s() == 0


def test_who_takes_long_makes_room_when_the_places_run_out(time: Time) -> None:
    door = Door(DoorRules(connecting_max=3, address_connecting_max=0), time)
    dropped: list[tuple[str, Refusal]] = []
    for number in range(3):
        arrive(door, f"192.0.2.{number}:1", dropped)
    assert 0 < door.wait_s() <= PATIENCE_S  # all of them are young: the next one waits outside
    for _ in range(8):  # in these seconds no place comes free
        time.now += PATIENCE_S / 6
        waits = door.wait_s()
    assert waits == 0
    arrive(door, "192.0.2.9:1", dropped)
    assert [(address, refusal.code) for address, refusal in dropped] == [("192.0.2.0:1", "connection.too_slow")]
    assert door.connecting == 3


def test_nobody_is_pushed_out_of_a_storm_that_goes_on(time: Time) -> None:
    """Each handshake takes four seconds, because there are so many; but they end, and the next ones wait."""
    door = Door(DoorRules(connecting_max=80, address_connecting_max=0), time)
    dropped: list[tuple[str, Refusal]] = []
    inside: list[Visitor] = []
    came = 0
    for _ in range(600):  # a minute in steps of 100 ms; two in that time come through
        while door.wait_s() == 0 and len(inside) < 200:
            visitor = arrive(door, f"192.0.2.1:{came}", dropped)
            assert isinstance(visitor, Visitor)
            inside.append(visitor)
            came += 1
        time.now += 0.1
        door.leave(inside.pop(0))
        door.leave(inside.pop(0))
    assert dropped == []
    assert came > 600
    for _ in range(20):  # then they are half-open ones, of which none ends
        time.now += 0.5
        if door.wait_s() == 0:
            arrive(door, "198.51.100.1:1", dropped)
    assert dropped


def test_whoever_has_left_holds_nothing(time: Time) -> None:
    """A visitor's way out holds its connection, which holds the visitor: a circle that nobody looks for often."""
    door = Door(DoorRules(), time)
    visitor = arrive(door, "192.0.2.1:1", [])
    assert isinstance(visitor, Visitor)
    assert visitor.is_here
    caller = Caller(visitor=visitor)
    succeed_as(door, caller)
    assert not visitor.is_here
    assert visitor.drop is drop_nobody
    assert caller.visitor is None


def test_an_address_pushes_out_its_own(time: Time) -> None:
    door = Door(DoorRules(address_connecting_max=2), time)
    dropped: list[tuple[str, Refusal]] = []
    other = arrive(door, "198.51.100.1:1", dropped)
    for port in (1, 2):
        arrive(door, f"192.0.2.1:{port}", dropped)
    refused = arrive(door, "192.0.2.1:3", dropped)
    assert isinstance(refused, Refusal)
    assert refused.code == "connection.too_many"
    time.now += PATIENCE_S
    assert isinstance(arrive(door, "192.0.2.1:4", dropped), Visitor)
    assert [address for address, _ in dropped] == ["192.0.2.1:1"]
    assert isinstance(other, Visitor)
    door.leave(other)
    door.leave(other)
    assert door.connecting == 2


def test_an_address_has_a_pace_of_its_own(time: Time) -> None:
    door = Door(DoorRules(address_connects_per_s=2), time)
    answers = [arrive(door, "192.0.2.1:1") for _ in range(3)]
    assert [isinstance(answer, Visitor) for answer in answers] == [True, True, False]
    assert isinstance(arrive(door, "192.0.2.2:1"), Visitor)
    time.now += 0.5
    assert isinstance(arrive(door, "192.0.2.1:1"), Visitor)


def test_exempt_addresses_are_not_judged(time: Time) -> None:
    networks = (ipaddress.ip_network("127.0.0.0/8"),)
    door = Door(DoorRules(address_connects_per_s=1, address_connecting_max=1, exempt=networks), time)
    assert all(isinstance(arrive(door, "127.0.0.1:1"), Visitor) for _ in range(5))
    for _ in range(ADDRESS_FAILURES + 5):
        fail(door, Presented(None, None), "127.0.0.1:1")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("192.0.2.1:5", "192.0.2.1"),
        ("[2001:db8:1:2:3:4:5:6]:5", "2001:db8:1:2::"),
        ("[::ffff:192.0.2.1]:5", "192.0.2.1"),
        ("[fe80::1%eth0]:5", "fe80::"),
        ("", None),
    ],
)
def test_under_what_an_address_is_counted(address: str, host: str | None) -> None:
    assert judged_host(address, ()) == host


# -- asking -------------------------------------------------------------------------------------------------------------


def test_the_same_wrong_credential_is_looked_at_less_and_less(time: Time) -> None:
    door = Door(DoorRules(), time)
    wrong = Presented("pump-1", b"nonsense")
    asked = []
    for second in range(600):
        try:
            with door.asking(Caller(), wrong):
                asked.append(second)
                raise DeviceRefused("unknown")
        except (DeviceRefused, ConnectionRateExceeded):
            time.now += 1
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert gaps[: CREDENTIAL.free] == [1, 1, 1]
    assert gaps[CREDENTIAL.free : CREDENTIAL.free + 6] == [1, 2, 4, 8, 16, 32]
    assert set(gaps[CREDENTIAL.free + 6 :]) == {60}
    assert door.refused_total == 600 - len(asked)


def test_another_credential_of_the_same_device_is_looked_at(time: Time) -> None:
    door = Door(DoorRules(), time)
    for _ in range(CREDENTIAL.free + 1):
        fail(door, Presented("pump-1", b"old"))
    with pytest.raises(ConnectionRateExceeded), door.asking(Caller(), Presented("pump-1", b"old")):
        raise AssertionError("it was looked at")
    succeed(door, Presented("pump-1", b"new"))


def test_nobody_locks_a_device_out_by_failing_in_its_name(time: Time) -> None:
    door = Door(DoorRules(), time)
    good = Presented("pump-1", b"right")
    succeed(door, good)
    for number in range(IDENTITY.free + 1):
        fail(door, Presented("pump-1", b"%d" % number), "203.0.113.9:1")
    with pytest.raises(ConnectionRateExceeded), door.asking(Caller(), Presented("pump-1", b"guess")):
        raise AssertionError("it was looked at")
    succeed(door, good)  # was good before
    succeed(door, Presented("pump-1", b"guess"))  # and its success has cleared the name


def test_a_token_is_one_identity_wherever_it_is_shown(time: Time) -> None:
    door = Door(DoorRules(), time)
    row = uuid4()
    for number in range(IDENTITY.free + 1):
        token = secrets.mint(secrets.DEVICE, row).text
        fail(door, Presented(token, None) if number % 2 else Presented(str(uuid4()), token.encode()))
    with pytest.raises(ConnectionRateExceeded), door.asking(Caller(), Presented(secrets.mint(secrets.DEVICE, row).text)):
        raise AssertionError("it was looked at")


def test_the_true_owner_of_a_token_is_known_where_it_has_never_been(time: Time) -> None:
    """A gateway that has just started remembers nobody, and somebody fails in a device's name from many addresses."""
    door = Door(DoorRules(), time)
    row = uuid4()
    right = secrets.mint(secrets.DEVICE, row)
    for number in range(IDENTITY.free + 50):
        guess = Presented(secrets.mint(secrets.DEVICE, row).text)
        caller = Caller(f"203.0.113.{number}:1")
        with contextlib.suppress(ConnectionRateExceeded, WrongToken), door.asking(caller, guess):
            raise WrongToken("wrong", right.digest)
    with pytest.raises(ConnectionRateExceeded, match="this name"), door.asking(Caller(), guess):
        raise AssertionError("it was looked at")
    succeed(door, Presented("pump-1", right.text.encode()))


def test_a_whole_address_is_slowed_down_late_and_its_good_devices_pass(time: Time) -> None:
    door = Door(DoorRules(), time)
    good = Presented("pump-1", b"right")
    succeed(door, good)
    for number in range(ADDRESS_FAILURES):
        fail(door, Presented(f"user-{number}", b"x"))
    with pytest.raises(ConnectionRateExceeded, match="this address"), door.asking(Caller(), Presented("someone", b"new")):
        raise AssertionError("it was looked at")
    succeed(door, good)
    succeed(door, Presented("someone", b"new"), "192.0.2.2:1")
    time.now += 1 / ADDRESS_FAILURES_PER_S
    succeed(door, Presented("someone", b"new"))


def test_a_good_device_comes_in_beside_a_hundred_that_are_misconfigured(time: Time) -> None:
    """All behind one router, all of them again each second; the good one comes last, and has never been here."""
    door = Door(DoorRules(), time)
    for second in range(60):
        time.now = 1000.0 + second
        for number in range(100):
            revoked = Presented(f"device-{number}", b"revoked")
            with contextlib.suppress(ConnectionRateExceeded, DeviceRefused), door.asking(Caller(), revoked):
                raise DeviceRefused("revoked")
        if second >= 10:
            with contextlib.suppress(ConnectionRateExceeded):
                succeed(door, Presented("newcomer", b"right"))
                return
    raise AssertionError("a minute was not enough")


def test_a_credential_that_was_good_and_is_not_any_more_is_judged_like_any_other(time: Time) -> None:
    door = Door(DoorRules(), time)
    presented = Presented("pump-1", b"revoked meanwhile")
    succeed(door, presented)
    for _ in range(CREDENTIAL.free + 1):
        fail(door, presented)
    with pytest.raises(ConnectionRateExceeded), door.asking(Caller(), presented):
        raise AssertionError("it was looked at")


def test_an_engine_that_is_away_is_nobodys_failure(time: Time) -> None:
    door = Door(DoorRules(), time)
    for _ in range(2 * ADDRESS_FAILURES):
        with pytest.raises(Unavailable), door.asking(Caller(), Presented("pump-1", b"right")):
            raise Unavailable("away")
    succeed(door, Presented("pump-1", b"right"))
    assert door.waiting == 0


@pytest.mark.parametrize("reference", ["", "gateway-2.example"])
@pytest.mark.parametrize("closing", [True, False])
def test_a_full_gateway_sends_elsewhere_where_it_knows_where(time: Time, reference: str, closing: bool) -> None:
    door = Door(DoorRules(connections_max=1, server_reference=reference), time)
    door.inside, door.closing = (0, True) if closing else (2, False)
    visitor = door.enter("192.0.2.1:1")
    caller = Caller(visitor=visitor)
    with pytest.raises(UseAnotherServer if reference else GatewayFull) as refused, door.asking(caller, Presented()):
        raise AssertionError("it was full")
    assert refused.value.fields.get("server_reference", "") == reference
    assert caller.visitor is None
    assert door.connecting == 0


# -- parts --------------------------------------------------------------------------------------------------------------


def test_a_back_off_forgets_what_has_been_quiet() -> None:
    back_off = BackOff(BackOffRule(free=1, first_s=1, longest_s=10))
    for now in (0.0, 1.0, 5.0):
        back_off.failed("key", now)
    assert back_off.left_s("key", 5.0) == 2
    back_off.failed("key", 100.0)
    assert back_off.left_s("key", 100.0) == 0
    for _ in range(10_000):  # however often, it stays at the longest
        back_off.failed("key", 100.0)
    assert back_off.left_s("key", 100.0) == 10


def test_tables_are_bounded_and_keep_what_was_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "REMEMBERED_MAX", 3)
    recent: Recent[str, int] = Recent()
    for number, key in enumerate("abc"):
        recent.put(key, number + 1)
    assert recent.find("a") == 1
    recent.put("d", 4)
    assert [key for key in "abcd" if key in recent] == ["a", "c", "d"]
    assert len(recent) == 3


def test_a_token_bucket_owes_at_most_what_was_taken() -> None:
    bucket = TokenBucket(10, 2, 0.0)
    assert bucket.wait_s(0.0) == 0
    bucket.take()
    bucket.take()
    assert bucket.wait_s(0.0) == pytest.approx(0.1)
    assert bucket.wait_s(0.1) == 0
    assert bucket.wait_s(1000.0) == 0
    bucket.take()
    bucket.take()
    assert bucket.wait_s(1000.0) > 0  # a long pause is worth two, not ten thousand


def test_a_flood_of_refusals_is_counted_not_written(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, object]] = []
    monkeypatch.setattr(visitor_module.log, "info", lambda _event, **said: lines.append(said))
    refusals = LoggedRefusals(time)
    for _ in range(1000):
        refusals.refused(Visitor("192.0.2.1:1", 0.0), Refusal("tls", "tls.timeout", "slow"))
    assert len(lines) == visitor_module.LOG_LINES_BURST
    time.now += 1
    refusals.refused(Visitor("192.0.2.1:1", 0.0), Refusal("tls", "tls.timeout", "slow"))
    assert lines[-1]["unsaid"] == 1000 - visitor_module.LOG_LINES_BURST
