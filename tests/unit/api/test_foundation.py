"""Cursors, entity tags, rate limits, bodies, and the gate: without engines."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import get, post
from litestar.exceptions import LitestarDeprecationWarning
from litestar.params import Parameter, QueryParameter
from msgspec import Meta
from tests.support.clock import FakeClock

from headwater.api import auth, etag
from headwater.api.app import APIServices, create_app
from headwater.api.errors import CursorInvalid, RateLimited, RouteUndeclared
from headwater.api.limits import Buckets, RequestLimits
from headwater.api.pagination import Cursors
from headwater.api.request import decode
from headwater.api.services import Noun
from headwater.errors import Forbidden, Invalid
from headwater.tenancy.errors import GroupScoped, NotAMember
from headwater.tenancy.identity import Identity
from headwater.tenancy.quotas import Quotas
from headwater.tenancy.scope import TenantScope

TENANT = UUID(int=7)
CURSORS = Cursors("s" * 32)
NO_ENGINES = APIServices("x" * 32, None, None, None, None, FakeClock())  # type: ignore[arg-type]  # never asked


def test_a_cursor_comes_back_as_it_went() -> None:
    key = (datetime(2026, 1, 2, tzinfo=UTC), UUID(int=3), "ü")
    text = CURSORS.encode("devices", key)
    assert CURSORS.decode("devices", text, tuple[datetime, UUID, str]) == key
    assert CURSORS.decode("devices", None, tuple[str]) is None


def test_a_cursor_belongs_to_one_list_and_one_installation() -> None:
    text = CURSORS.encode("devices", ("a",))
    for other, of in ((CURSORS, "groups"), (Cursors("t" * 32), "devices")):
        with pytest.raises(CursorInvalid):
            other.decode(of, text, tuple[str])


@given(st.text(max_size=80))
def test_whatever_is_sent_as_a_cursor_is_refused(text: str) -> None:
    with pytest.raises(CursorInvalid):
        CURSORS.decode("devices", text, tuple[str])


def test_pages() -> None:
    page = CURSORS.page("n", [1, 2, 3], 2, lambda item: (item,))
    assert (page.items, CURSORS.decode("n", page.next_cursor, tuple[int])) == ([1, 2], (2,))
    assert CURSORS.page("n", [1, 2], 2, lambda item: (item,)).next_cursor is None


def request(**headers: str) -> Any:
    return SimpleNamespace(headers={k.replace("_", "-"): v for k, v in headers.items()}, method="GET")


@pytest.mark.parametrize(
    ("header", "version"),
    [('"7"', 7), ("*", None), (' "7" ', 7), ('W/"7"', etag.NEVER), ('"x"', etag.NEVER), ('"' + "9" * 30 + '"', etag.NEVER)],
)
def test_if_match(header: str, version: int | None) -> None:
    assert etag.expected_version(request(if_match=header)) == version


@pytest.mark.parametrize("header", ["7", '"1", "2"', "", '"', "W/"])
def test_if_match_that_is_none(header: str) -> None:
    with pytest.raises(Invalid):
        etag.expected_version(request(if_match=header))


def test_buckets_give_a_burst_and_then_the_rate() -> None:
    clock = FakeClock()
    buckets = Buckets(clock)
    assert [buckets.take("k", 10) for _ in range(20)] == [0.0] * 20
    assert buckets.take("k", 10) == pytest.approx(0.1)
    assert buckets.take("other", 10) == 0.0
    clock.advance(0.1)
    assert buckets.take("k", 10) == 0.0
    assert buckets.take("k", 10) > 0
    assert buckets.take("never", 0) > 0


def test_a_tenants_limit_holds_for_all_its_tokens() -> None:
    limits = RequestLimits(FakeClock())
    quotas = Quotas(requests_per_s=2, token_requests_per_s=100)
    people = [Identity(f"token:{n}", TenantScope(TENANT, f"token:{n}", frozenset()), quotas) for n in range(5)]
    for identity in people[:4]:
        limits.check(identity)
    with pytest.raises(RateLimited) as refused:
        limits.check(people[4])
    assert refused.value.fields["limit_per_s"] == 2


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1)]


class Body(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    inner: Inner
    many: list[int] = []


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"name": 1, "inner": {"size": 0}, "many": ["x"]}', {"name", "inner.size", "many[0]"}),
        (b'{"inner": {"size": "1"}}', {"name", "inner.size"}),
        (b'{"name": "a", "inner": {"size": 1}, "other": 1}', {"other"}),
        (b'{"name": "a", "inner": {}}', {"inner.size"}),
        (b"[]", {""}),
        (b"{", {""}),
        (b"", {""}),
        (b"\xff", {""}),
    ],
)
def test_each_wrong_member_is_named(body: bytes, names: set[str]) -> None:
    with pytest.raises(Invalid) as refused:
        decode(body, Body)
    assert {error["name"] for error in refused.value.fields["errors"]} == names


def test_a_whole_number_may_be_written_with_a_point() -> None:
    class Parts(msgspec.Struct, forbid_unknown_fields=True):
        count: Annotated[int, Meta(ge=0, le=9)]
        factors: list[int] = []
        rate: float = 0

    assert decode(b'{"count": 7.0, "factors": [1e2], "rate": 2}', Parts) == Parts(7, [100], 2.0)
    for body, name in ((b'{"count": 7.5}', "count"), (b'{"count": 70.0}', "count"), (b'{"count": 1.0, "x": 1}', "x")):
        with pytest.raises(Invalid) as refused:
            decode(body, Parts)
        assert [error["name"] for error in refused.value.fields["errors"]] == [name]


@get("/things", public=True)
async def list_things(
    *,
    since: Annotated[datetime | None, QueryParameter()] = None,
    owner: Annotated[UUID | None, QueryParameter()] = None,
    word: Annotated[str | None, QueryParameter()] = None,
    several: Annotated[list[int] | None, QueryParameter()] = None,
) -> dict[str, Any]:
    return {"since": since, "owner": owner, "word": word, "several": several}


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("since=2026-01-31T12:00:00Z&word=null&several=1&several=2", []),
        ("", []),
        ("since=1700000000", ["since"]),
        ("since=2026-01-31", ["since"]),
        ("owner=null&since=NULL", ["owner", "since"]),
        ("word=a&word=b", ["word"]),
        ("several=null", ["several"]),
        ("unknown=null", []),
    ],
)
async def test_query_strings_are_read_strictly(query: str, wrong: list[str]) -> None:
    app = create_app(NO_ENGINES, [Noun("X", "x", (list_things,))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        answer = await client.get(f"/api/v1/things?{query}")
    assert answer.status_code == (400 if wrong else 200), answer.text
    assert sorted(error["name"] for error in answer.json().get("errors", [])) == wrong


@given(st.binary(max_size=60))
def test_no_body_is_more_than_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        decode(body, Body)


SCOPE = TenantScope(TENANT, "token:1", frozenset({"device:read"}))
GROUPED = TenantScope(TENANT, "token:1", frozenset({"device:read"}), group_id=UUID(int=1))
PERSON = Identity("person:1", SCOPE, person_id=UUID(int=2))


@pytest.mark.parametrize(
    ("identity", "opt", "refusal"),
    [
        (Identity("token:1", SCOPE), {"permission": "device:read"}, None),
        (Identity("token:1", SCOPE), {"permission": "device:write"}, Forbidden),
        (Identity("token:1", SCOPE), {"member": True}, None),
        (Identity("token:1", SCOPE), {"person": True}, Forbidden),
        (Identity("token:1", SCOPE), {"operator": True}, Forbidden),
        (Identity("token:1", SCOPE), {}, Forbidden),
        (Identity("token:1", GROUPED), {"permission": "device:read"}, GroupScoped),
        (Identity("token:1", GROUPED), {"permission": "device:read", "group_scoped": True}, None),
        (Identity("token:1", GROUPED), {"member": True}, GroupScoped),
        (PERSON, {"person": True}, None),
        (Identity("operator:1", operator=True), {"operator": True}, None),
        (Identity("operator:1", operator=True), {"permission": "device:read"}, Forbidden),
        (Identity("operator:1", operator=True), {"anyone": True}, None),
        (Identity("person:1", refusal=NotAMember("left")), {"permission": "device:read"}, NotAMember),
    ],
)
def test_who_is_let_in(identity: Identity, opt: dict[str, Any], refusal: type[Exception] | None) -> None:
    if refusal is None:
        auth.admit(identity, opt)
    else:
        with pytest.raises(refusal):
            auth.admit(identity, opt)


@pytest.mark.parametrize("opt", [{}, {"permission": "no:such"}, {"public": True, "person": True}])
def test_an_app_with_an_undeclared_route_does_not_start(opt: dict[str, Any]) -> None:
    @get("/x", opt=opt)
    async def handler() -> None: ...

    with pytest.raises(RouteUndeclared):
        create_app(NO_ENGINES, [Noun("X", "x", (handler,))])


@get("/x/{thing_id:uuid}", public=True)
async def get_inferred(thing_id: UUID) -> None: ...


@get("/x", public=True)
async def get_with_inferred_service(service: Body) -> None: ...


@post("/x", public=True)
async def post_inferred(data: Body) -> None: ...


@pytest.mark.parametrize("handler", [get_inferred, get_with_inferred_service, post_inferred])
def test_a_handler_in_a_style_that_will_stop_working_is_an_error(handler: Any) -> None:
    with pytest.raises(LitestarDeprecationWarning):
        create_app(NO_ENGINES, [Noun("X", "x", (handler,), lambda _: {"service": None})])


def test_a_parameter_in_a_style_that_will_stop_working_is_an_error() -> None:
    with pytest.raises(DeprecationWarning):
        Parameter(query="q")
