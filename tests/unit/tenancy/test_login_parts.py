"""Passwords, back-off, access tokens, quotas: without engines."""

from __future__ import annotations

import asyncio
import itertools
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey
from tests.support.clock import FakeClock

from headwater.errors import Unauthenticated, Unavailable
from headwater.tenancy import passwords
from headwater.tenancy.access_tokens import LIFETIME_S, AccessClaims, AccessTokens, SecretTooShort
from headwater.tenancy.attempts import Attempts
from headwater.tenancy.errors import TokenExpired, TooManyAttempts
from headwater.tenancy.passwords import Passwords
from headwater.tenancy.quotas import Quotas, quotas_of, stored_of
from headwater.tenancy.scope import PERMISSIONS, Permission, Role

SECRET = "a secret of at least thirty-two bytes"
CLAIMS = AccessClaims(UUID(int=1), UUID(int=2), UUID(int=3))


async def test_a_hash_opens_for_its_password_only() -> None:
    cheap = Passwords(time_cost=1, memory_kib=8)
    stored = await cheap.hash("right")
    assert stored.startswith("$argon2id$")
    assert (await cheap.verify(stored, "right")).right
    assert not (await cheap.verify(stored, "wrong")).right
    assert not (await cheap.verify(None, "nobody has this password")).right
    assert not (await cheap.verify("broken", "x")).right


async def test_old_parameters_are_replaced_at_the_next_login() -> None:
    stored = await Passwords(time_cost=1, memory_kib=8).hash("right")
    verdict = await Passwords(time_cost=1, memory_kib=16).verify(stored, "right")
    assert verdict.fresh_hash is not None
    assert "m=16" in verdict.fresh_hash
    assert (await Passwords(time_cost=1, memory_kib=8).verify(stored, "right")).fresh_hash is None


async def test_a_flood_of_logins_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "WAITING_MAX", 3)
    cheap = Passwords(time_cost=1, memory_kib=8)
    answers = await asyncio.gather(*(cheap.hash("x") for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(a, Unavailable) for a in answers) >= 1
    assert sum(isinstance(a, str) for a in answers) >= 3
    assert await cheap.hash("afterwards")


def test_back_off_grows_and_is_forgotten() -> None:
    clock = FakeClock()
    attempts = Attempts(clock)
    for _ in range(5):
        attempts.check("a@x", "1.2.3.4")
        attempts.failed("A@x", "1.2.3.4")
    waits = []
    for _ in range(4):
        with pytest.raises(TooManyAttempts) as refused:
            attempts.check("a@x", "1.2.3.4")
        waits.append(refused.value.retry_after_s)
        clock.advance(refused.value.retry_after_s)
        attempts.check("a@x", "1.2.3.4")
        attempts.failed("a@x", "1.2.3.4")
    assert waits == [1, 2, 4, 8]
    attempts.check("a@x", "5.6.7.8")  # from elsewhere the person gets in
    clock.advance(16 * 60)
    attempts.check("a@x", "1.2.3.4")


def test_one_place_cannot_try_everybody() -> None:
    attempts = Attempts(FakeClock())
    for number in range(50):
        attempts.failed(f"{number}@x", "1.2.3.4")
        attempts.succeeded(f"{number}@x", "1.2.3.4")
    with pytest.raises(TooManyAttempts):
        attempts.check("new@x", "1.2.3.4")
    attempts.check("new@x", "5.6.7.8")


def test_access_tokens() -> None:
    clock = FakeClock()
    tokens = AccessTokens(SECRET, clock)
    text = tokens.sign(CLAIMS)
    assert tokens.read(text) == CLAIMS
    without = AccessClaims(UUID(int=1), UUID(int=2), None)
    assert tokens.read(tokens.sign(without)) == without
    with pytest.raises(Unauthenticated):
        AccessTokens(SECRET + "!", clock).read(text)
    clock.advance(LIFETIME_S + 1)
    with pytest.raises(TokenExpired):
        tokens.read(text)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(SecretTooShort):
        AccessTokens("short", FakeClock())


@pytest.mark.parametrize(
    "header",
    [{"alg": "HS256", "typ": "JWT"}, {"alg": "HS384", "typ": "at+jwt"}, {"alg": "HS512", "typ": "at+jwt"}],
)
def test_other_tokens_of_the_same_key_are_no_access_tokens(header: dict[str, str]) -> None:
    clock = FakeClock()
    claims = {"iss": "headwater", "sub": "1" * 32, "sid": "2" * 32, "exp": clock.now_us() // 1_000_000 + 60}
    text = jwt.encode(header, claims, OctKey.import_key(SECRET), algorithms=[header["alg"]])
    with pytest.raises(Unauthenticated):
        AccessTokens(SECRET, clock).read(text)


@given(st.text(max_size=200) | st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}\.[\w-]{0,40}", fullmatch=True))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        AccessTokens(SECRET, FakeClock()).read(text)


def test_only_what_differs_from_the_defaults_is_stored() -> None:
    assert stored_of(Quotas()) == {}
    assert stored_of(Quotas(devices_max=5)) == {"devices_max": 5}
    assert quotas_of({"devices_max": 5}) == Quotas(devices_max=5)


def test_roles_are_a_ladder_and_every_permission_is_on_it() -> None:
    ladder = [PERMISSIONS[r] for r in (Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.OWNER)]
    assert all(lower < higher for lower, higher in itertools.pairwise(ladder))
    assert ladder[-1] == set(Permission)
