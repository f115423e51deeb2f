"""`headwater status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headwater.cli.up import DEFAULT_HOME, HOME_HELP

if TYPE_CHECKING:
    from headwater.app.status import Status

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example:  headwater status --home ./var/home --json")
def status(
    home: Path = typer.Option(DEFAULT_HOME, envvar="HEADWATER_HOME", help=HOME_HELP),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """What runs in a home, and how far it has come. Exit code 1 where nothing runs."""
    import asyncio

    import msgspec

    from headwater.app import logs
    from headwater.app.status import status_of

    logs.configure("CRITICAL", "console")
    found = asyncio.run(status_of(home))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _show(found)
    raise typer.Exit(1 if found.problems or (found.up is None and not found.postgres_version) else 0)


def _show(found: Status) -> None:
    import time

    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    up = found.up
    console.print(
        f"Headwater {found.version}, home {found.home}: " + ("nothing runs here" if up is None else f"up, pid {up.pid}")
    )
    if up is not None:
        processes = Table("process", "state", "pid", "since", "restarts")
        for child in up.children:
            since = f"{max(0.0, time.time() - child.since):.0f} s"
            processes.add_row(child.name, child.state, str(child.pid or ""), since, str(child.restarts))
        console.print(processes)
        console.print("\n".join(f"{name}: {url}" for name, url in up.urls.items()))
    if found.streams:
        streams = Table("stream", "messages", "bytes", "full")
        for stream in found.streams:
            full = f"{100 * stream.bytes / stream.bytes_max:.1f} %" if stream.bytes_max else ""
            streams.add_row(stream.name, f"{stream.messages:,}", f"{stream.bytes:,}", full)
        console.print(streams)
    if found.backlog:
        waiting = ", ".join(f"{b.consumer} {b.subject}: {b.batches}" for b in found.backlog if b.batches)
        console.print(f"backlog (batches): {waiting or 'none'}")
    if found.rows:
        console.print("rows, about: " + ", ".join(f"{table} {count:,}" for table, count in found.rows.items()))
    if found.postgres_version or found.nats_version:
        console.print(f"PostgreSQL {found.postgres_version or '-'}, nats-server {found.nats_version or '-'}")
    for problem in found.problems:
        console.print(problem, style="yellow", markup=False)
