"""The gateway role: reads top to bottom, from settings to sockets."""

from __future__ import annotations

import asyncio
import importlib
import signal
import zlib
from contextlib import AsyncExitStack
from functools import partial

import structlog

from headwater.app import readiness
from headwater.app.connections import PromptConnection, connect_nats
from headwater.app.gateway_figures import figures_of
from headwater.app.gateway_ports import certificate_of, door_rules, ports_of, trusted_proxies
from headwater.app.metrics import serve_metrics
from headwater.app.process import collect_rarely, give_memory_back_for_ever, map_large_blocks
from headwater.app.settings import Settings, SettingsInvalid, check_anonymous, require
from headwater.clock import SystemClock
from headwater.database.session import Database, open_pool
from headwater.device.anonymous import AnonymousAuthenticator
from headwater.device.authentication import Authentication, EnhancedMethod, TokenAuthenticator
from headwater.gateway.http.app import create_ingest_app
from headwater.gateway.http.server import serve
from headwater.gateway.metering import Meters
from headwater.gateway.mqtt.admission import Admission
from headwater.gateway.mqtt.client_directory import ClientDirectory
from headwater.gateway.mqtt.door import Door
from headwater.gateway.mqtt.happenings import Happenings, ToldRefusals
from headwater.gateway.mqtt.listener import MQTTListener
from headwater.gateway.mqtt.router import Router
from headwater.gateway.mqtt.sessions import Sessions
from headwater.gateway.mqtt.standstill import OwnMessages, Standstill
from headwater.gateway.mqtt.visitor import LoggedRefusals
from headwater.gateway.presence import Attendance, Presence
from headwater.gateway.roster import Roster
from headwater.gateway.timeline import Timeline
from headwater.ids import uuid7
from headwater.ingest.profile_compiled import CompiledProfiles
from headwater.live.feed import LiveFeed
from headwater.live.watch import WatchList, subscribe
from headwater.protocols.mqtt.session import Limits
from headwater.stream.message_log import MessageLog
from headwater.stream.publisher import Publisher
from headwater.stream.retained_store import RetainedStore
from headwater.stream.topology import ensure
from headwater.stream.uplink import StreamUplink

log = structlog.get_logger(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve devices until `stop`; then stop accepting, store what was received, say good-bye."""
    check_anonymous(settings.gateway)
    map_large_blocks()
    async with AsyncExitStack() as stack:
        gateway_id = uuid7()
        clock = SystemClock()
        pool = await open_pool(
            require(settings.database.url, "DATABASE_URL"),
            size_max=settings.database.pool_size_max,
            application_name="headwater-gateway",
        )
        stack.push_async_callback(pool.close)
        nats = await connect_nats(settings.nats, name=settings.gateway.name)
        stack.push_async_callback(nats.close)
        carrier = await connect_nats(settings.nats, name=f"{settings.gateway.name} messages", no_echo=True)
        stack.push_async_callback(carrier.close)
        scribe = await connect_nats(settings.nats, name=f"{settings.gateway.name} log", kind=PromptConnection)
        stack.push_async_callback(scribe.close)
        jetstream = nats.jetstream()
        await ensure(jetstream, settings.nats.topology)

        watch_list = WatchList()
        listening = await subscribe(nats, watch_list)
        stack.push_async_callback(listening.close)
        feed = LiveFeed(nats, watch_list)
        feeding = asyncio.create_task(feed.run())
        stack.callback(feeding.cancel)
        publisher = Publisher(jetstream)
        uplink = StreamUplink(publisher, settings.nats.topology, _lane(settings), live=feed)
        database = Database(pool)
        tokens = TokenAuthenticator(database, clock)
        authentication = Authentication((tokens,))
        mqtt_authentication = authentication
        if settings.gateway.anonymous_tenant:
            anonymous = AnonymousAuthenticator(database, tokens, settings.gateway.anonymous_tenant)
            mqtt_authentication = Authentication((tokens, anonymous))
            log.warning("anonymous_access", tenant=settings.gateway.anonymous_tenant, host=settings.gateway.host)
        profiles = CompiledProfiles()
        meters = Meters()
        timeline = Timeline(publisher, gateway_id, clock)
        timeline.open()
        stack.push_async_callback(timeline.close)
        ingest = create_ingest_app(authentication, uplink, clock, profiles, meters, timeline=timeline)
        message_log, retained = MessageLog(nats), RetainedStore(nats)
        sessions = Sessions(nats, gateway_id, message_log, retained, lambda: nats.back_for_s)
        standstill = Standstill(sessions)
        own = OwnMessages(Publisher(scribe.jetstream()), standstill)
        router = Router(nats, carrier, own, message_log=message_log, retained=retained, uplink=uplink)
        roster, directory = Roster(nats, gateway_id), ClientDirectory(nats, gateway_id)
        loop = asyncio.get_running_loop()
        door = Door(door_rules(settings.gateway), loop.time)
        happenings = Happenings(timeline)
        admission = Admission(
            authentication=mqtt_authentication,
            tokens=tokens,
            nats=nats,
            attendance=Attendance(uplink, gateway_id, clock),
            happenings=happenings,
            router=router,
            sessions=sessions,
            directory=directory,
            profiles=profiles,
            meters=meters,
            forget=ingest.forget,
            door=door,
            methods=_methods(settings, authentication),
        )
        listener = MQTTListener(
            limits=Limits(keep_alive_s_max=settings.gateway.keep_alive_s_max),
            uplink=uplink,
            router=router,
            admission=admission,
            happenings=happenings,
            profiles=profiles,
            meters=meters,
            door=door,
            refusals=ToldRefusals(LoggedRefusals(loop.time), timeline),
            server_reference=settings.gateway.server_reference,
        )

        presence = Presence(pool, gateway_id, settings.gateway.name, meters, admission.say_again)
        await presence.open()
        stack.push_async_callback(presence.close)
        await admission.listen()
        await sessions.listen()
        await directory.open()
        roster.changed = directory.share_out
        await roster.open()
        stack.push_async_callback(roster.close)
        figuring = router.figures.serve(gateway_id, admission.counts, router.watched, router.hand_out_here)
        for upkeep in (
            admission.recheck_for_ever(), sessions.write_for_ever(), standstill.watch_for_ever(),
            router.watch_connection(), figuring, roster.say_for_ever(), directory.refresh_for_ever(),
            give_memory_back_for_ever(lambda: listener.handshakes),
        ):  # fmt: skip
            task = asyncio.create_task(upkeep)
            stack.callback(task.cancel)

        figures = partial(
            figures_of, listener=listener, admission=admission, router=router, directory=directory, door=door, uplink=uplink,
            timeline=timeline, feed=feed,
        )  # fmt: skip
        stack.enter_context(serve_metrics(settings.gateway.metrics_port, figures, "GATEWAY_METRICS_PORT"))
        certificate = certificate_of(settings.gateway)
        await listener.open(
            settings.gateway.host,
            ports_of(settings.gateway, certificate),
            certificate=certificate,
            proxies=trusted_proxies(settings.gateway),
            local_origins=bool(settings.gateway.anonymous_tenant),
        )
        loop.add_signal_handler(signal.SIGHUP, listener.reload_certificate)
        stack.callback(loop.remove_signal_handler, signal.SIGHUP)
        http = asyncio.create_task(
            serve(
                ingest,
                settings.gateway.host,
                settings.gateway.http_port,
                certificate_file=settings.gateway.tls_cert_file,
                key_file=settings.gateway.tls_key_file,
                stop=stop,
            )
        )
        collect_rarely()
        readiness.announce_ready()
        ports = {acceptor.port.scheme: acceptor.port.number for acceptor in listener.acceptors}
        log.info("gateway_ready", name=settings.gateway.name, ports=ports)
        await stop.wait()
        await http
        await listener.close()


def _methods(settings: Settings, authentication: Authentication) -> list[EnhancedMethod]:
    """What the operator has written for his devices. Raises SettingsInvalid."""
    methods = []
    for name in filter(None, (part.strip() for part in settings.gateway.authentication_methods.split(","))):
        module, _, factory = name.partition(":")
        try:
            methods.append(getattr(importlib.import_module(module), factory)(authentication))
        except (ImportError, AttributeError, ValueError) as error:
            raise SettingsInvalid(f"HEADWATER_GATEWAY_AUTHENTICATION_METHODS: {name} is not there: {error}") from error
    return methods


def _lane(settings: Settings) -> int:
    """A process stays on one lane; which one hardly matters, as long as they spread."""
    if settings.gateway.lane >= 0:
        return settings.gateway.lane
    return zlib.crc32(settings.gateway.name.encode())
