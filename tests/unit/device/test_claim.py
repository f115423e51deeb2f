"""Whom a refused peer says it is, and that nothing that may be a secret is passed on."""

from __future__ import annotations

import pytest

from headwater.device.authentication import NO_CLAIM, Claim, Presented
from headwater.ids import uuid7
from headwater.tenancy import secrets

ROW, DEVICE = uuid7(), str(uuid7())
TOKEN = secrets.mint(secrets.DEVICE, ROW).text


@pytest.mark.parametrize(
    ("username", "password", "claim"),
    [
        (DEVICE, TOKEN, Claim(ROW, DEVICE)),
        ("thermometer-1", "some other password", Claim(None, "thermometer-1")),
        (None, TOKEN, Claim(ROW)),
        # ThingsBoard firmware sends a token alone as the user name: ours is known by its id, another platform's is a secret.
        (TOKEN, None, Claim(ROW)),
        ("A1_TEST_TOKEN_20_long", None, NO_CLAIM),
        (DEVICE, None, Claim(None, DEVICE)),
        # Swapped, or damaged.
        (TOKEN, DEVICE, NO_CLAIM),
        (TOKEN[:-3], "x", NO_CLAIM),
        (TOKEN.upper(), "x", NO_CLAIM),
        (None, None, NO_CLAIM),
    ],
    ids=[
        "both", "another name", "token as password", "token as user name", "a token of another platform", "no password",
        "swapped", "damaged", "upper case", "nothing",
    ],
)  # fmt: skip
def test_a_claim_names_and_never_proves(username: str | None, password: str | None, claim: Claim) -> None:
    made = Presented(username, None if password is None else password.encode()).claim()
    assert made == claim
    assert TOKEN[-10:] not in str(made)
