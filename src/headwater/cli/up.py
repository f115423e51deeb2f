"""`headwater up`."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

HOME_HELP = "Where everything is kept."
DEFAULT_HOME = Path("~/.headwater")

EXAMPLES = """
Examples:

  headwater up

  headwater up --home ./var/home --gateways 2 --ready-json ready.json

  headwater up --demo 50

  headwater up --dev-anonymous

Engines: PostgreSQL and nats-server come from their wheels and are started and supervised here, unless
HEADWATER_DATABASE_OWNER_URL (with _URL, _WRITER_URL, _OPERATOR_URL) or HEADWATER_NATS_URL name others.
Ctrl-C or SIGTERM drains and stops everything. A second `up` on the same home goes on with the same data.
"""


@app.command(epilog=EXAMPLES)
def up(
    home: Path = typer.Option(DEFAULT_HOME, envvar="HEADWATER_HOME", help=HOME_HELP),
    host: str = typer.Option("127.0.0.1", help="The address that API, MQTT and HTTP ingest listen on. 0.0.0.0 = all."),
    http_port: int = typer.Option(8080, min=1, max=65535, help="API, its documentation, the console."),
    mqtt_port: int = typer.Option(1883, min=1, max=65535, help="MQTT."),
    mqtts_port: int = typer.Option(8883, min=0, max=65535, help="MQTT over TLS. 0 = off, as for the next two."),
    ws_port: int = typer.Option(8083, min=0, max=65535, help="MQTT over WebSocket, at /mqtt."),
    wss_port: int = typer.Option(8084, min=0, max=65535, help="MQTT over WebSocket over TLS."),
    ingest_port: int = typer.Option(8081, min=1, max=65535, help="HTTP ingest."),
    gateways: int = typer.Option(1, min=1, max=256, help="Gateway processes; they share the ports."),
    workers: int = typer.Option(1, min=1, max=64, help="Worker processes."),
    ready_json: Path = typer.Option(None, help="Write URLs and credentials here when ready (mode 0600)."),
    dev_anonymous: bool = typer.Option(
        False,
        "--dev-anonymous",
        help="Let MQTT clients in without a credential, to every topic of the first tenant; only"
        " on loopback. For test suites and first tries.",
    ),
    demo: int = typer.Option(0, min=0, max=100_000, metavar="DEVICES", help="Simulate so many devices of several makes."),
) -> None:
    """Run everything on this machine: engines, schema, first tenant, workers, gateways, API."""
    import asyncio

    from headwater.app import logs, settings
    from headwater.app.all_in_one import AllInOne, UpOptions
    from headwater.app.runner import raise_file_limit
    from headwater.cli.terminal import UpTerminal

    read = settings.read()
    logs.configure("WARNING", "console")
    raise_file_limit()
    terminal = UpTerminal(home)
    for said in settings.misspelt():
        terminal.problem(said)
    options = UpOptions(
        home, host, http_port, mqtt_port, mqtts_port, ws_port, wss_port, ingest_port, gateways, workers, ready_json, demo,
        dev_anonymous,
    )  # fmt: skip
    asyncio.run(AllInOne(options, read, terminal).run())
