"""Every operation of the API, as everybody who may not.

Generated from the committed description: a new operation is walked by itself. What cannot be invented (which thing a path
parameter names, a body that is good) stands in the three tables below, and a test says what is missing in them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.api import SECRET_KEY, bearer
from tests.support.clock import FakeClock
from tests.support.engines import DatabaseURLs
from tests.support.two_tenants import MARK, World, two_tenants

from headwater.ids import uuid7
from headwater.tenancy import secrets
from headwater.tenancy.access_tokens import AccessClaims, AccessTokens
from headwater.tenancy.scope import ALL_PERMISSIONS, PERMISSIONS, Role

DESCRIPTION = json.loads((Path(__file__).parents[2] / "openapi" / "v1.json").read_bytes())

# What a path parameter names: a thing of alpha (tests/support/two_tenants.py).
PATH = {
    "device_id": "$device",
    "profile_id": "$profile",
    "group_id": "$group",
    "credential_id": "$credential",
    "token_id": "$token",
    "person_id": "$person",
    "invitation_id": "$invitation",
    "sequence": "$letter",
    "tenant_id": "$tenant",
}
# Query parameters that name things, by operation.
QUERY: dict[str, dict[str, str]] = {
    "listDevices": {"group_id": "$group"},
    "exportDevices": {"group_id": "$group"},
    "listLatest": {"group_id": "$group", "device": "$device"},
    "listDeadLetters": {"device_id": "$device"},
    "watchEvents": {"devices": "$device", "group": "$group"},
}
# A good body of each operation that has one, naming things of alpha wherever it can name something.
BODY: dict[str, Any] = {
    "login": {"email": "nobody@example.com", "password": "nobody's password", "tenant": f"{MARK}-tenant"},
    "refreshSession": {"refresh_token": secrets.mint(secrets.REFRESH, uuid7()).text},
    "switchTenant": {"tenant": f"{MARK}-tenant"},
    "acceptInvitation": {"token": secrets.mint(secrets.INVITATION, uuid7()).text, "password": "long enough"},
    "setPassword": {"token": secrets.mint(secrets.PASSWORD_RESET, uuid7()).text, "password": "long enough"},
    "updateMe": {"name": "Beta Person"},
    "changePassword": {"current_password": "not this one", "new_password": "long enough"},
    "updateTenant": {"name": "Beta renamed"},
    "changeRole": {"role": "viewer"},
    "createInvitation": {"email": "friend@example.com", "role": "viewer"},
    "createToken": {"name": "mine", "permissions": ["device:read"], "group_id": "$group"},
    "createProfile": {"name": "mine"},
    "updateProfile": {"name": "taken"},
    "createDevice": {"external_id": "mine", "profile": f"{MARK} profile"},
    "updateDevice": {"name": "taken"},
    "importDevices": "external_id,profile\nmine,alpha profile\n",
    "createCredential": {},
    "createGroup": {"name": "mine", "query": 'external_id = "alpha-1"'},
    "updateGroup": {"name": "taken"},
    "addGroupDevices": {"device_ids": ["$device"]},
    "removeGroupDevices": {"device_ids": ["$near"]},
    "queryTelemetry": {"devices": {"ids": ["$device"], "group_id": "$group"}},
    "replayDeadLetters": {"device_id": "$device"},
    "deleteDeadLetters": {"device_id": "$device"},
    "createTenant": {
        "slug": "gamma",
        "name": "Gamma",
        "owner": {"email": "g@example.com", "password": "long enough"},
    },
    "setQuotas": {},
    "createOperatorToken": {"name": "mine"},
}
# Public, but with credentials of its own: a ticket, or an Authorization header that the handler looks at itself.
OWN_CREDENTIALS = {"watchEvents": "telemetry:read"}
# May answer another tenant although it names things of alpha: it simply finds nothing of them.
FINDS_NOTHING = {
    "createGroup",
    "deleteDeadLetters",
    "exportDevices",
    "importDevices",
    "listDeadLetters",
    "listDevices",
    "listLatest",
    "replayDeadLetters",
}
# Names things of alpha not by id but by name, which are wrong words then and not missing things.
WRONG_WORDS = {"createDevice": "device.invalid"}


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    said: dict[str, Any]

    @property
    def access(self) -> str:
        return "permission" if self.id in OWN_CREDENTIALS else str(self.said["x-access"])

    @property
    def permission(self) -> str | None:
        return OWN_CREDENTIALS.get(self.id) or self.said.get("x-permission")

    @property
    def group_scoped(self) -> bool:
        return bool(self.said["x-group-scoped"])

    @property
    def names_things(self) -> bool:
        """Of alpha: in its path, its query or its body."""
        return "$" in json.dumps([self._path(), QUERY.get(self.id), BODY.get(self.id)])

    def _path(self) -> str:
        path = self.path
        for parameter in self.said["parameters"]:
            if parameter["in"] == "path":
                # Tokens of the operator's plane are not those of a tenant.
                name = "$operator_token" if "/operator/tokens/" in path else PATH[parameter["name"]]
                path = path.replace("{" + parameter["name"] + "}", name)
        return path

    async def call(
        self, world: World, headers: dict[str, str], ids: dict[str, str] | None = None
    ) -> tuple[httpx.Response, set[str]]:
        """The answer, and which things the question named."""
        ids = ids or world.ids
        body = BODY.get(self.id)
        asked = json.dumps([self._path(), QUERY.get(self.id, {}), body])
        named = {ids[name] for name in sorted(ids, key=len) if f"${name}" in asked}
        extra: dict[str, Any] = {}
        if isinstance(body, str):
            extra = {"content": body, "headers": {**headers, "Content-Type": "text/csv"}}
        else:
            extra = {"headers": headers} | ({} if body is None else {"json": filled(body, ids)})
        query = filled(QUERY.get(self.id, {}), ids)
        return await world.client.request(self.method, filled(self._path(), ids), params=query, timeout=20, **extra), named


def filled(value: Any, ids: dict[str, str]) -> Any:
    text = json.dumps(value)
    for name in sorted(ids, key=len, reverse=True):
        text = text.replace(f"${name}", ids[name])
    return json.loads(text)


OPERATIONS = [
    Operation(operation["operationId"], method.upper(), path, operation)
    for path, item in DESCRIPTION["paths"].items()
    for method, operation in item.items()
]
OF_TENANTS = [o for o in OPERATIONS if o.access == "permission"]


@pytest.fixture
async def world(database_urls: DatabaseURLs, nats_url: str) -> AsyncIterator[World]:
    async with two_tenants(database_urls, nats_url) as made:
        yield made


def wrong(operation: Operation, who: str, answer: httpx.Response, expected: set[tuple[int, str]]) -> list[str]:
    """What is to be complained about, as a sentence."""
    code = answer.json().get("code") if answer.headers.get("content-type", "").endswith("json") else None
    if (answer.status_code, code) in expected and answer.headers["content-type"] == "application/problem+json":
        return []
    return [f"{operation.id} as {who}: {answer.status_code} {code}, not {sorted(expected)}: {answer.text[:200]}"]


def test_the_tables_know_every_operation() -> None:
    missing = []
    for operation in OPERATIONS:
        parameters = operation.said["parameters"]
        missing += [
            f"PATH: which thing of alpha is {p['name']} of {operation.id}?"
            for p in parameters
            if p["in"] == "path" and p["name"] not in PATH
        ]
        missing += [
            f"QUERY: which thing of alpha is {p['name']} of {operation.id}?"
            for p in parameters
            if p["in"] == "query" and '"uuid"' in json.dumps(p["schema"]) and p["name"] not in QUERY.get(operation.id, {})
        ]
        if "requestBody" in operation.said and operation.id not in BODY:
            missing.append(f"BODY: a good body for {operation.id}, naming things of alpha where it can")
    assert missing == []
    known = {operation.id for operation in OPERATIONS}
    assert (BODY.keys() | QUERY.keys() | FINDS_NOTHING | OWN_CREDENTIALS.keys()) - known == set()


async def test_nobody_gets_in_without_a_good_credential(world: World) -> None:
    past, now = datetime.now(UTC) - timedelta(seconds=1), FakeClock()
    now.advance(-3600)
    claims = AccessClaims(uuid7(), uuid7(), world.alpha)
    real = world.owner["Authorization"]
    session = await world.person(Role.OWNER)
    await world.client.post("/api/v1/auth/logout", headers=session)
    unknown, expired, revoked = "auth.unauthenticated", "auth.token_expired", "auth.token_revoked"
    strangers: list[tuple[str, dict[str, str], str]] = [
        ("nobody", {}, unknown),
        ("garbage", bearer("garbage"), unknown),
        ("another scheme", {"Authorization": "Basic YTpi"}, unknown),
        ("an empty token", {"Authorization": "Bearer "}, unknown),
        ("a token that never was", bearer(secrets.mint(secrets.API, uuid7()).text), unknown),
        ("a token with another secret", {"Authorization": real[:-6] + "AAAAAA"}, unknown),
        ("a device", bearer(secrets.mint(secrets.DEVICE, uuid7()).text), unknown),
        ("a refresh token", bearer(secrets.mint(secrets.REFRESH, uuid7()).text), unknown),
        ("another installation's person", bearer(AccessTokens("x" * 40, FakeClock()).sign(claims)), unknown),
        ("an expired person", bearer(AccessTokens(SECRET_KEY, now).sign(claims)), expired),
        ("a person without a session", bearer(AccessTokens(SECRET_KEY, FakeClock()).sign(claims)), revoked),
        ("who has logged out", session, revoked),
        ("an expired token", await world.token(expires_at=past), expired),
        ("a revoked token", await world.token(revoked_at=past), revoked),
    ]
    before = await world.snapshot()
    complaints = []
    for operation in OPERATIONS:
        if operation.access == "public":
            continue
        for who, headers, code in strangers:
            answer, _ = await operation.call(world, headers)
            complaints += wrong(operation, who, answer, {(401, code)})
            if not answer.headers.get("www-authenticate", "").startswith("Bearer"):
                complaints.append(f"{operation.id} as {who}: no WWW-Authenticate")
    assert complaints == []
    assert await world.snapshot() == before


async def test_nobody_does_more_than_allowed(world: World) -> None:
    complaints = []
    people = {role: await world.person(role) for role in Role}
    before = await world.snapshot()
    for operation in OPERATIONS:
        if operation.access == "operator":
            for who, headers in {"alpha's owner": people[Role.OWNER], "alpha's token": world.owner}.items():
                answer, _ = await operation.call(world, headers)
                complaints += wrong(operation, who, answer, {(403, "auth.forbidden")})
        elif operation.access == "person":
            answer, _ = await operation.call(world, world.owner)
            complaints += wrong(operation, "a token", answer, {(403, "auth.forbidden")})
    for operation in OF_TENANTS:
        permission = operation.permission
        lacking = {"who lacks it": await world.token(ALL_PERMISSIONS - {permission}), "the operator": world.operator}
        for role, headers in people.items():
            if permission not in PERMISSIONS[role]:
                lacking[role.value] = headers
        for who, headers in lacking.items():
            answer, _ = await operation.call(world, headers)
            complaints += wrong(operation, who, answer, {(403, "auth.forbidden")})
        if not operation.group_scoped and operation.id not in OWN_CREDENTIALS:
            grouped = await world.token(group_id=world.ids["group"])
            answer, _ = await operation.call(world, grouped)
            complaints += wrong(operation, "a token of a group", answer, {(403, "auth.group_scoped")})
    after = await world.snapshot()
    assert complaints == []
    assert {k for k in before if before[k] != after[k]} <= {"api_token"}  # those that were minted here


async def test_a_suspended_tenant_does_nothing(world: World) -> None:
    people = {"its owner": await world.person(Role.OWNER), "its token": world.owner}
    answer = await world.client.post(f"/api/v1/operator/tenants/{world.alpha}/suspend", headers=world.operator)
    assert answer.status_code == 200
    before = await world.snapshot()
    complaints = []
    for operation in OF_TENANTS:
        for who, headers in people.items():
            answer, _ = await operation.call(world, headers)
            complaints += wrong(operation, who, answer, {(403, "tenant.suspended")})
    assert complaints == []
    assert await world.snapshot() == before


async def test_another_tenant_finds_nothing_and_changes_nothing(world: World) -> None:
    # Both: a person's and a token's requests are authorised in different ways.
    person, token = await world.person(Role.OWNER, world.beta), await world.token(tenant=world.beta)
    strangers = {"beta's owner": person, "beta's token": token}
    before, letters = await world.snapshot(), await world.dead_letters()
    complaints = []
    for operation in sorted(OF_TENANTS, key=lambda o: o.method == "DELETE"):
        for who, headers in strangers.items():
            answer, named = await operation.call(world, headers)
            if operation.names_things and operation.id not in FINDS_NOTHING and answer.status_code not in {404, 409}:
                complaints.append(f"{operation.id} as {who}: {answer.status_code} {answer.text[:200]}")
            if WRONG_WORDS.get(operation.id) == (answer.json()["code"] if answer.status_code == 400 else ""):
                pass
            elif answer.status_code >= 500 or answer.status_code in {400, 401, 403, 415}:
                complaints.append(f"{operation.id} as {who} was not even tried: {answer.status_code} {answer.text[:200]}")
            told = answer.text + str(answer.headers)
            for sent in (f"{MARK} profile", f"{MARK}-1", f"{MARK}-tenant"):
                told = told.replace(sent, "")  # said by us
            if MARK in told or any(thing in told for thing in set(world.ids.values()) - named if len(thing) > 8):
                complaints.append(f"{operation.id} as {who} leaks: {answer.text[:300]}")
    after = await world.snapshot()
    assert complaints == []
    assert [table for table in before if before[table] != after[table]] == []
    assert await world.dead_letters() == letters


async def test_a_token_of_a_group_finds_its_devices_only(world: World) -> None:
    headers = await world.token(group_id=world.ids["group"])
    await world.client.get("/api/v1/me", headers=headers)  # notes that it was used, before the snapshot
    far = world.ids["device"]
    complaints = []
    before, letters = await world.snapshot(), await world.dead_letters()
    for operation in OF_TENANTS:
        if not operation.group_scoped and operation.id not in OWN_CREDENTIALS:
            continue
        # With its own group, in which `$device` is not.
        answer, named = await operation.call(world, headers)
        refused = answer.status_code in {403, 404, 409}
        if "$device" in json.dumps([operation._path(), QUERY.get(operation.id), BODY.get(operation.id)]):
            if not refused and operation.id not in FINDS_NOTHING:
                complaints.append(f"{operation.id} on a device outside: {answer.status_code} {answer.text[:200]}")
        elif operation.method == "GET" and answer.status_code not in {200, 404, 409}:
            complaints.append(f"{operation.id}: {answer.status_code} {answer.text[:200]}")
        if far not in named and (far in answer.text or f"{MARK}-1" in answer.text):
            complaints.append(f"{operation.id} shows a device outside: {answer.text[:300]}")
    assert complaints == []
    after = await world.snapshot()
    assert [table for table in before if before[table] != after[table]] == []
    assert await world.dead_letters() == letters


async def test_each_role_reads_what_it_may(world: World) -> None:
    """The other half: the refusals above are not simply for everybody."""
    complaints = []
    for role in Role:
        headers = await world.person(role)
        for operation in OF_TENANTS:
            if operation.method != "GET" or operation.permission not in PERMISSIONS[role] or operation.id in OWN_CREDENTIALS:
                continue
            answer, _ = await operation.call(world, headers, {**world.ids, "device": world.ids["near"]})
            if answer.status_code != 200:
                complaints.append(f"{operation.id} as {role}: {answer.status_code} {answer.text[:200]}")
            elif not any(mine in answer.text for mine in (MARK, *world.ids.values())):
                complaints.append(f"{operation.id} as {role} found nothing of its own tenant: {answer.text[:200]}")
    assert complaints == []
