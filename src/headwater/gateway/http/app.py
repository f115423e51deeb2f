"""The HTTP ingest: what a device may POST, as one ASGI application without a framework.

    POST /v1/telemetry        POST /v1/attributes        POST /v1/events/{name}        GET /v1/health

202 means that the stream has stored the records. An answer of 4xx names every bad record (the first 100) and means that
nothing of the request was stored, unless it asked for `?partial=true`. Who sends comes from the credential alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import msgspec
import structlog

from headwater.clock import Clock
from headwater.device.authentication import NO_CLAIM, Authentication, Claim
from headwater.device.principal import Principal
from headwater.device.profile import Decoder
from headwater.errors import DomainError, QuotaExceeded, Unauthenticated
from headwater.gateway.http import bulk
from headwater.gateway.http.credentials import Credentials, Sender, claim_of
from headwater.gateway.http.errors import MediaTypeUnsupported, MethodNotAllowed, PathUnknown, RequestTimeout
from headwater.gateway.http.problems import Answer, internal_error, problem
from headwater.gateway.http.rejection import Rejections, content_type_of, encoded, summary
from headwater.gateway.http.request import Disconnected, Receive, Request, Scope, Send
from headwater.gateway.http.submission import Epochs, Submission
from headwater.gateway.metering import Meters
from headwater.gateway.timeline import Timeline
from headwater.ingest.decoders import decoder_of
from headwater.ingest.errors import Rejected
from headwater.ingest.ports import Uplink
from headwater.ingest.profile_compiled import CompiledProfile, CompiledProfiles, Observed, Outcome
from headwater.stream.envelope import Kind
from headwater.stream.timeline import Event

log = structlog.get_logger(__name__)

NDJSON = frozenset(("application/x-ndjson", "application/ndjson", "application/jsonl"))
_EVENTS = "/v1/events/"
_JSON = [(b"content-type", b"application/json")]
_HEALTHY: Answer = (200, [*_JSON, (b"cache-control", b"no-store")], b'{"status":"ok"}')


@dataclass(frozen=True, slots=True)
class _Target:
    """What one request means for its device."""

    kind: Kind
    decoder: Decoder
    read: Callable[[bytes], list[Observed]]
    each: Callable[[bytes], list[Outcome]] | None
    """record by record; None where a payload is always one record"""


class IngestApp:
    """An ASGI 3 application. `forget` ends what is remembered of a device, credential, profile or tenant."""

    def __init__(
        self,
        credentials: Credentials,
        uplink: Uplink,
        clock: Clock,
        profiles: CompiledProfiles,
        slots: bulk.BulkSlots,
        *,
        timeline: Timeline | None,
    ) -> None:
        self._credentials = credentials
        self._uplink = uplink
        self._clock = clock
        self._profiles = profiles
        self._slots = slots
        self._timeline = timeline
        self._epochs = Epochs()

    def forget(self, identifier: UUID) -> None:
        """For changes in the registry, whatever their noun."""
        self._credentials.forget(identifier)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the ingest speaks HTTP, not {scope['type']}")
        request = Request(scope, receive)
        try:
            status, headers, body = await self._answer(request)
        except Disconnected:
            return
        await send({
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, request: Request) -> Answer:
        try:
            if request.path == "/v1/health":
                return _health(request)
            return await self._ingest(request)
        except DomainError as error:
            if not request.complete:
                await request.discard()
            return problem(error, instance=request.instance, close=not request.complete)
        except Disconnected:
            raise
        except Exception:
            log.exception("ingest_failed", path=request.path)
            return internal_error(request.instance)

    async def _ingest(self, request: Request) -> Answer:
        _check_path(request)
        sender = await self._identify(request)
        principal = sender.principal
        media_type = request.content_type.partition(";")[0].strip().lower()
        received_us = self._clock.now_us()
        target = _target(request.path, media_type, self._profiles.get(principal.profile), received_us)
        partial = request.flag("partial")
        submission = Submission(
            self._uplink, principal, target.kind, received_us, self._epochs.next(received_us), resent=request.flag("resent")
        )
        rejections = Rejections(self._uplink, principal, request.path, received_us)
        _count(sender)
        if media_type in NDJSON:
            await self._bulk(request, sender, target, submission, rejections, partial=partial)
        else:
            payload = await request.body(principal.quotas.message_bytes_max)
            await _message(target, payload, submission, rejections, partial=partial)
        if rejections.first is not None:
            self._tell(Event.MESSAGE_REJECTED, request, principal, rejections.first)
        return await _conclude(request, submission, rejections, partial=partial)

    async def _identify(self, request: Request) -> Sender:
        authorization = request.headers.get(b"authorization")
        try:
            return await self._credentials.identify(authorization)
        except Unauthenticated as error:
            self._tell(Event.AUTHENTICATION_FAILED, request, None, error, claim_of(authorization))
            raise

    def _tell(
        self, event: Event, request: Request, principal: Principal | None, error: DomainError, claim: Claim = NO_CLAIM
    ) -> None:
        """For the device's timeline."""
        if self._timeline is not None:
            self._timeline.say(
                event,
                tenant_id=principal.tenant_id if principal is not None else None,
                device_id=principal.device_id if principal is not None else None,
                address=request.address,
                protocol="http",
                listener="http",
                code=error.code,
                detail=error.detail,
                claim=claim,
            )

    async def _bulk(
        self, request: Request, sender: Sender, target: _Target, submission: Submission, rejections: Rejections,
        *, partial: bool,
    ) -> None:  # fmt: skip
        store = bulk.store_the_good if partial else bulk.store_all_or_nothing
        with self._slots.slot(sender.principal.device_id):
            try:
                await store(request, sender.principal.quotas.message_bytes_max, target.read, submission, rejections)
            except (Rejected, RequestTimeout) as error:  # the body itself; what was good before is stored, where asked for
                await rejections.settle()
                error.fields["accepted"] = await submission.finish()
                raise
        if sender.meter is not None:
            sender.meter.left -= submission.added + rejections.count - 1


async def _message(
    target: _Target, payload: bytes, submission: Submission, rejections: Rejections, *, partial: bool
) -> None:
    """One payload: the straight way, and only where something is wrong with it record by record."""
    try:
        records = target.read(payload)
    except Rejected as rejected:
        content_type = content_type_of(target.decoder)
        outcomes = _outcomes(target, payload)
        if outcomes is None:
            rejections.add(rejected, payload, content_type)
            return
        for outcome in outcomes:
            if outcome.rejected is not None:
                rejections.add(outcome.rejected, *encoded(outcome.source, target.decoder))
        if not partial:
            rejections.keep_whole(payload, content_type)
            return
        records = [outcome.observed for outcome in outcomes if outcome.observed is not None]
    await submission.add(records)


def _outcomes(target: _Target, payload: bytes) -> list[Outcome] | None:
    """None where the payload cannot be taken apart."""
    if target.each is None:
        return None
    try:
        return target.each(payload)
    except Rejected:
        return None


async def _conclude(request: Request, submission: Submission, rejections: Rejections, *, partial: bool) -> Answer:
    await rejections.settle()
    if rejections.first is not None and not (partial and submission.added):
        return problem(rejections.first, instance=request.instance, accepted=0, **summary(rejections))
    accepted = await submission.finish()
    body = {"accepted": accepted, **summary(rejections)} if partial else {"accepted": accepted}
    return 202, _JSON, msgspec.json.encode(body)


def _target(path: str, media_type: str, profile: CompiledProfile, at: int) -> _Target:
    """at: received_us"""
    decoder = Decoder.JSON if media_type in NDJSON else profile.decoder_for(_decoder(media_type))
    if path == "/v1/telemetry":
        return _Target(
            Kind.TELEMETRY, decoder, lambda p: profile.telemetry(p, at, decoder),
            lambda p: profile.telemetry_each(p, at, decoder),
        )  # fmt: skip
    if path == "/v1/attributes":
        return _Target(
            Kind.ATTRIBUTES, decoder, lambda p: profile.attributes(p, at, decoder),
            lambda p: profile.attributes_each(p, at, decoder),
        )  # fmt: skip
    read = profile.event_reader(path.removeprefix(_EVENTS), decoder)
    return _Target(Kind.EVENT, decoder, lambda p: read(p, at), None)


def _check_path(request: Request) -> None:
    if request.path not in {"/v1/telemetry", "/v1/attributes"} and not request.path.startswith(_EVENTS):
        raise PathUnknown("POST to /v1/telemetry, /v1/attributes or /v1/events/{name}")
    if request.method != "POST":
        raise MethodNotAllowed("use POST", allow="POST")


def _health(request: Request) -> Answer:
    if request.method not in {"GET", "HEAD"}:
        raise MethodNotAllowed("use GET", allow="GET, HEAD")
    return _HEALTHY


def _decoder(media_type: str) -> Decoder:
    """No Content-Type, and bytes that say nothing of themselves: as the profile has it."""
    if media_type in {"", "application/octet-stream"}:
        return Decoder.AUTO
    decoder = decoder_of(media_type)
    if decoder is None:
        raise MediaTypeUnsupported(
            "Content-Type is application/json, application/x-ndjson, application/senml+json, application/senml+cbor, "
            "application/cbor or application/msgpack"
        )
    return decoder


def _count(sender: Sender) -> None:
    """One message against the tenant's quota. Raises QuotaExceeded."""
    meter = sender.meter
    if meter is None:
        return
    if meter.left <= 0:
        raise QuotaExceeded("the tenant's messages per second are used up", retry_after_s=1)
    meter.left -= 1


def create_ingest_app(
    authentication: Authentication,
    uplink: Uplink,
    clock: Clock,
    profiles: CompiledProfiles,
    meters: Meters | None = None,
    *,
    timeline: Timeline | None = None,
) -> IngestApp:
    """meters: the tenants' message quotas, shared with the other listeners of the process; None = not enforced.
    timeline: hears of refused credentials and rejected messages; None = nobody does.
    """
    return IngestApp(Credentials(authentication, meters), uplink, clock, profiles, bulk.BulkSlots(), timeline=timeline)
