"""The command line: `headwater ...`.

A command is imported when it is called, so `headwater --help` stays quick. Adding one: a file here with a typer app named
`app`, and a row in `COMMANDS`.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("up", "Run everything on this machine: engines, gateways, workers, API, first tenant."),
    "run": ("run", "Run one role (gateway, worker, api) against engines that exist."),
    "migrate": ("migrate", "Bring the schema and the streams up to date."),
    "status": ("status", "What runs in a home, and how far it has come."),
    "doctor": ("doctor", "Say what is wrong and what to do."),
    "person": ("person", "People: the first tenant, a new password, the platform operator's rights."),
    "devices": ("devices", "Devices: create, import, export, list, show, timeline, token, suspend, resume, decommission."),
    "dead-letters": ("dead_letters", "Messages that could not be stored: list, inspect, replay, delete."),
}
"""name -> module, help"""


class LazyGroup(TyperGroup):
    """Knows the names and help texts of all commands, and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        known = COMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=known[1]) if known is not None else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name not in COMMANDS:
            return super().resolve_command(ctx, args)  # says which names there are
        module = importlib.import_module(f"headwater.cli.{COMMANDS[name][0]}")
        command = typer.main.get_command(module.app)
        command.name = name
        return name, command, args[1:]


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import headwater

        print(f"headwater {headwater.__version__}")
        raise typer.Exit


@app.callback(epilog="Start here:  headwater up")
def root(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_show_version, is_eager=True),
) -> None:
    """Headwater: any device, one data model, nothing acknowledged is lost."""


def main() -> None:
    """Errors that say what to do become one line and an exit code; what nobody foresaw keeps its traceback."""
    from headwater.errors import DomainError

    try:
        app()
    except DomainError as error:
        print(f"headwater: {error.detail} [{error.code}]", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
