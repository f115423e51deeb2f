"""`headwater doctor`."""

from __future__ import annotations

from pathlib import Path

import typer

from headwater.cli.up import DEFAULT_HOME, HOME_HELP

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EXAMPLES = """
Examples:

  headwater doctor --home ./var/home

  HEADWATER_DATABASE_URL=... HEADWATER_NATS_URL=... headwater doctor --json
"""


@app.command(epilog=EXAMPLES)
def doctor(
    home: Path = typer.Option(DEFAULT_HOME, envvar="HEADWATER_HOME", help=HOME_HELP),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Say what is wrong and what to do. Looks at a home, or at the engines that the settings name. Exit code 1 where
    something is wrong."""
    import asyncio

    import msgspec

    from headwater.app import logs
    from headwater.app.doctor import examine

    logs.configure("CRITICAL", "console")
    findings = asyncio.run(examine(home))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(findings)).decode())
    else:
        for finding in findings:
            print(f"{finding.problem} [{finding.code}]\n    -> {finding.advice}")
        if not findings:
            print("nothing wrong found")
    raise typer.Exit(1 if findings else 0)
