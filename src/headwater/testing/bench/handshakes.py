"""(i) TLS handshakes a second, CONNECT and CONNACK included: full ones, and ones that resume a session.

Both contestants show the same certificate. A client's half of a handshake costs as much as a server's: on two cores, the
generator has one of them.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from headwater.testing.bench import certificate, mosquitto
from headwater.testing.bench.contest import Duel, Round, Side, gateways_named
from headwater.testing.bench.context import Bench
from headwater.testing.bench.generator import shake
from headwater.testing.bench.installation import installation, temporary
from headwater.testing.bench.processes import Usage
from headwater.testing.bench.report import Outcome, milliseconds, nothing_lost


async def measure(bench: Bench) -> Outcome:
    options, gateways = bench.options, bench.options.gateways[0]
    outcome = Outcome("handshakes")
    duels = {
        resume: Duel("resumed" if resume else "full handshakes", Side(gateways_named(gateways))) for resume in (False, True)
    }
    not_resumed = 0
    async with AsyncExitStack() as stack:
        shown = certificate.make(stack.enter_context(temporary()))
        up = await stack.enter_async_context(installation(bench, gateways=gateways, certificate=shown))
        credentials = await up.devices(options.handshake_devices)
        programs = up.programs()
        their_port = 0
        if mosquitto.find() is None:
            outcome.skipped.append(mosquitto.ABSENT)
        else:
            _, their_port, programs["mosquitto"] = await stack.enter_async_context(mosquitto.running(bench, shown))

        async def run(port: int, people: Path | None, resume: bool) -> Round:
            nonlocal not_resumed
            found = await shake(
                port, options.publish_s, at_once=options.handshakes_at_once, resume=resume, credentials=people
            )
            if resume and people is not None:
                not_resumed += found.connected - found.resumed
            return Round(found.connected_per_s, milliseconds(found.latency_us), found.refused, found.cpu_s, found.seconds)

        async with Usage(programs) as usage:
            for resume, duel in duels.items():
                bench.say(f"{duel.what}: {options.rounds} rounds of {options.publish_s:g} s each")
                theirs = partial(run, their_port, None, resume)
                await duel.fight(
                    options.rounds, partial(run, up.tls_port, credentials, resume), theirs if their_port else None
                )
    outcome.processes = usage.processes
    outcome.rows = [row for duel in duels.values() for row in duel.rows]
    outcome.figures["ratios"] = [
        {"resumed": resume, "ratio": duel.ratio, "rounds": duel.ratios} for resume, duel in duels.items()
    ]
    outcome.bars = [
        nothing_lost("connections that were not accepted", sum(duel.ours.lost for duel in duels.values())),
        nothing_lost("sessions that were not resumed", not_resumed),
    ]
    return outcome
