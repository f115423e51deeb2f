"""`headwater person`: what an administrator cannot do through the API because nobody can sign in."""

from __future__ import annotations

from pathlib import Path

import typer

from headwater.cli.client import fail
from headwater.cli.up import DEFAULT_HOME, HOME_HELP

OPERATOR_URL = "HEADWATER_DATABASE_OPERATOR_URL"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def person() -> None:
    """People: a new password, the platform operator's rights."""


@app.command(epilog=f"Example:  {OPERATOR_URL}=postgresql://headwater_operator:...@db/headwater headwater person first")
def first() -> None:
    """Make the first tenant and its administrator where there is none, and show how to get in, as JSON. Needs
    HEADWATER_DATABASE_OPERATOR_URL; `headwater up` does the same by itself. Tokens are new at each call, and those of the
    call before are of no use any more."""
    import asyncio
    import dataclasses
    import json

    from headwater.app import bootstrap, settings

    operator_url = settings.require(settings.read().database.operator_url, "DATABASE_OPERATOR_URL")
    access = asyncio.run(bootstrap.bootstrap(operator_url))
    print(json.dumps(dataclasses.asdict(access), default=str, indent=2))


@app.command(epilog="Example:  headwater person password admin@headwater.local")
def password(
    email: str = typer.Argument(help="Whose."),
    home: Path = typer.Option(DEFAULT_HOME, envvar="HEADWATER_HOME", help=HOME_HELP),
    ask: bool = typer.Option(False, "--ask", help="Type the new password; otherwise a random one is made and shown."),
) -> None:
    """Give a person a new password and end his or her sessions. Needs a running `up` on the home, or
    HEADWATER_DATABASE_OPERATOR_URL."""
    import asyncio
    import secrets

    from headwater.app import bootstrap

    operator_url = _operator_url(home)
    new = typer.prompt("New password", hide_input=True, confirmation_prompt=True) if ask else secrets.token_urlsafe(15)
    asyncio.run(bootstrap.set_password(operator_url, email, new))
    print(f"{email} has a new password" + ("." if ask else f" (shown once): {new}"))


@app.command(epilog="Example:  headwater person operator admin@headwater.local")
def operator(
    email: str = typer.Argument(help="Whose."),
    home: Path = typer.Option(DEFAULT_HOME, envvar="HEADWATER_HOME", help=HOME_HELP),
    revoke: bool = typer.Option(False, "--revoke", help="Take the right away."),
) -> None:
    """Let a person create, suspend and delete tenants. Gives no right inside any tenant."""
    import asyncio

    from headwater.app import bootstrap

    asyncio.run(bootstrap.set_operator(_operator_url(home), email, not revoke))
    print(f"{email} is {'no longer ' if revoke else ''}an operator of the platform")


def _operator_url(home: Path) -> str:
    """Of the setting, or of what runs in the home."""
    from headwater.app import home_settings, settings
    from headwater.app.home import Home

    given = settings.read().database.operator_url
    if not given and Home(home).find_up() is None:
        fail(f"nothing runs in {home}: start `headwater up --home {home}`, name another --home, or set {OPERATOR_URL}")
    return given or home_settings.read(home).database.operator_url
