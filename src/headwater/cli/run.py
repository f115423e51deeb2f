"""`headwater run gateway|worker|api`."""

from __future__ import annotations

from enum import StrEnum

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EXAMPLES = """
Examples:

  HEADWATER_DATABASE_URL=postgresql://headwater_app:...@db/headwater HEADWATER_NATS_URL=nats://n1 headwater run gateway

Settings are environment variables, see docs/reference/settings.md. Exit codes: 78 settings or schema, 69 an engine is away.
"""


class RoleName(StrEnum):
    GATEWAY = "gateway"
    WORKER = "worker"
    API = "api"


@app.command(epilog=EXAMPLES)
def run(role: RoleName = typer.Argument(help="Which role.")) -> None:
    """Run one role against engines that exist. SIGTERM or Ctrl-C drains and stops it."""
    from headwater.app.runner import run_role

    raise typer.Exit(run_role(role.value))
