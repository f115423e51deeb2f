"""`headwater devices`: bulk import and export, and the life of one device, through the API."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from headwater.cli.client import TOKEN_HELP, URL_HELP, APIClient, connect, fail
from headwater.cli.up import DEFAULT_HOME, HOME_HELP

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

URL = typer.Option("", "--url", envvar="HEADWATER_URL", help=URL_HELP)
TOKEN = typer.Option("", "--token", envvar="HEADWATER_TOKEN", help=TOKEN_HELP)
HOME = typer.Option(DEFAULT_HOME, "--home", envvar="HEADWATER_HOME", help=HOME_HELP)
FILTER = typer.Option("", "--filter", "-q", help='Which devices: labels.site = "north" and connected = true')
FOLLOW_S = 2.0
EVERYTHING = 1000
"""As many as are kept of a device: by their ids those that come late are told from those that were there."""
EVENT_WIDTH = 21
"""Of `authentication.failed`; the one that is longer is rare."""
TOLD_MAX = 50
"""Sentences about single lines: more scroll the first, which usually explains the others, out of sight."""


class Mode(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    UPSERT = "upsert"


class Format(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"


@app.callback()
def devices() -> None:
    """Create, import and export devices, give them tokens; list, show, suspend, resume and decommission them; see what
    happened to one."""


@app.command(epilog='Example:  eval "$(headwater devices create thermometer-1)"')
def create(
    name: str = typer.Argument(help="Your own name for it, unique in the tenant: its external id."),
    profile: str = typer.Option("default", help="What it measures and which topics it uses."),
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """Create a device with a token, and print both as lines that a shell takes. The token is shown this once."""
    client = connect(url, token, home)
    is_there = f"; `headwater devices token {shlex.quote(name)}` gives it another token"
    device = client.json(
        "POST", "/devices", {"external_id": name, "profile": profile}, advice={"resource.conflict": is_there}
    )
    _give_token(client, device)


@app.command(name="token", epilog='Example:  eval "$(headwater devices token thermometer-1)"')
def token_(
    device: str = typer.Argument(help="Its id or external id."), url: str = URL, token: str = TOKEN, home: Path = HOME
) -> None:
    """Give a device that is there a further token, and print both as `create` does. Its other tokens stay good."""
    client = connect(url, token, home)
    _give_token(client, _find(client, device))


def _give_token(client: APIClient, device: Any) -> None:
    credential = client.json("POST", f"/devices/{device['id']}/credentials", {})
    print(f"export DEVICE={device['id']}\nexport TOKEN={credential['password']}")


@app.command("import", epilog="Example:  headwater devices import fleet.csv --credentials fleet.credentials")
def import_(
    file: Path = typer.Argument(
        help="CSV with at least a column external_id (name, profile, status, labels.<name>, attributes.<name> as you"
        " like); NDJSON where its name ends in .ndjson or .jsonl.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
    credentials: Path = typer.Option(
        None, help="Give each new device a token and append lines `client_id username password` here (mode 0600)."
    ),
    rotate: bool = typer.Option(False, "--rotate", help="Devices that exist get a further credential, too."),
    mode: Mode = typer.Option(Mode.CREATE, help="create leaves existing devices alone; update and upsert change them."),
    profile: str = typer.Option("default", help="The profile of lines that name none."),
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """Import devices. Bad lines are named and left out, the good ones stay: exit code 1 where there was a bad one."""
    from headwater.cli.import_devices import CredentialFile, Importer

    if rotate and credentials is None:
        fail("--rotate needs --credentials: the new secrets are shown only once")
    client = connect(url, token, home)
    out = CredentialFile(credentials) if credentials is not None else None
    wanted = ("rotate" if rotate else "new") if out is not None else "none"
    content_type = "application/x-ndjson" if file.suffix.lower() in {".ndjson", ".jsonl"} else "text/csv"
    teller = _Teller()
    query = {"mode": mode.value, "credentials": wanted, "profile": profile}
    importer = Importer(client, content_type, query, out, teller.tell)
    with file.open("rb") as data, _progress(file) as moved:
        importer.run(data, moved)
    if out is not None:
        out.close()
    teller.close()
    totals = importer.totals
    print(
        f"{totals.lines} lines: {totals.created} created, {totals.updated} updated, {totals.unchanged} unchanged,"
        f" {totals.exists} already there, {totals.bad} bad; {totals.credentials} credentials issued"
    )
    if totals.bad:
        raise typer.Exit(1)


@app.command(epilog="Example:  headwater devices export --format ndjson -q 'status = active' > active.ndjson")
def export(
    out: Path = typer.Option(None, "--out", "-o", help="Write here instead of to standard output."),
    format: Format = typer.Option(Format.CSV, help="What `devices import` reads back."),  # noqa: A002  # the option's name
    q: str = FILTER,
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """Export devices. Text that a spreadsheet would take for a formula has an apostrophe before it."""
    import sys

    chunks = connect(url, token, home).stream("GET", "/devices/export", query={"format": format.value, "q": q})
    if out is None:
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    with out.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)


@app.command("list", epilog="Example:  headwater devices list -q 'connected = false' --sort -last_seen_at --limit 20")
def list_(
    q: str = FILTER,
    sort: str = typer.Option("id", help="A field, with - before it for descending."),
    limit: int = typer.Option(50, min=1, max=1000),
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """List devices, one a line: id, external id, status, connected, last seen, name."""
    page = connect(url, token, home).json("GET", "/devices", query={"q": q, "sort": sort, "limit": limit})
    for device in page["items"]:
        presence = device["presence"]
        state = "connected" if presence["connected"] else "-"
        cells = (
            device["id"],
            device["external_id"],
            device["status"],
            state,
            presence["last_seen_at"] or "-",
            device["name"],
        )
        print("\t".join(cells).rstrip("\t"))
    if page["next_cursor"]:
        print(f"headwater: there are more than {limit}", file=_stderr())


@app.command(epilog="Example:  headwater devices show thermometer-1")
def show(
    device: str = typer.Argument(help="Its id or external id."), url: str = URL, token: str = TOKEN, home: Path = HOME
) -> None:
    """Show one device as JSON."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(_find(connect(url, token, home), device))).decode())


@app.command(epilog="Example:  headwater devices timeline thermometer-1 --follow")
def timeline(
    device: str = typer.Argument(help="Its id or external id."),
    event: str = typer.Option("", help="Only events that begin with it: authentication., topic.denied, disconnected."),
    limit: int = typer.Option(30, min=1, max=1000),
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on with what happens from now on, until Ctrl-C."),
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """Show why a device can or cannot connect: attempts, ends of connections, denied topics, rejected messages."""
    import time

    client = connect(url, token, home)
    path = f"/devices/{_find(client, device)['id']}/timeline"
    query = {"event": event, "limit": EVERYTHING if follow else limit}
    page = client.json("GET", path, query=query)["items"]
    _tell_happenings(page[:limit])
    if not page and not follow:
        print(f"headwater: nothing has happened to {device}, or it is older than what is kept", file=_stderr())
    known = {one["id"] for one in page}
    while follow:
        time.sleep(FOLLOW_S)
        page = [one for one in client.json("GET", path, query=query)["items"] if one["id"] not in known]
        _tell_happenings(page)
        known.update(one["id"] for one in page)


def _tell_happenings(newest_first: list[Any]) -> None:
    """One a line, oldest first: when, event, in words."""
    for one in reversed(newest_first):
        print(f"{one['at'][:19].replace('T', ' ')}  {one['event']:<{EVENT_WIDTH}}  {one['summary']}", flush=True)


@app.command(epilog="Example:  headwater devices suspend thermometer-1")
def suspend(
    device: str = typer.Argument(help="Its id or external id."), url: str = URL, token: str = TOKEN, home: Path = HOME
) -> None:
    """End a device's connections and refuse new ones until it is resumed."""
    _step(connect(url, token, home), device, "suspend")


@app.command(epilog="Example:  headwater devices resume thermometer-1")
def resume(
    device: str = typer.Argument(help="Its id or external id."), url: str = URL, token: str = TOKEN, home: Path = HOME
) -> None:
    """Let a suspended device connect again."""
    _step(connect(url, token, home), device, "resume")


@app.command(epilog="Example:  headwater devices decommission thermometer-1 --yes")
def decommission(
    device: str = typer.Argument(help="Its id or external id."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """Retire a device for good: its credentials are revoked."""
    if not yes:
        typer.confirm(f"Decommission {device}? This cannot be undone", abort=True)
    _step(connect(url, token, home), device, "decommission")


def _step(client: APIClient, name: str, step: str) -> None:
    device = client.json("POST", f"/devices/{_find(client, name)['id']}/{step}")
    print(f"{device['external_id']} is {device['status']}")


def _find(client: APIClient, name: str) -> Any:
    import json
    from uuid import UUID

    quoted = json.dumps(name)
    try:
        q = f"id = {json.dumps(str(UUID(name)))} or external_id = {quoted}"
    except ValueError:
        q = f"external_id = {quoted}"
    found = client.json("GET", "/devices", query={"q": q, "limit": 1})["items"]
    if not found:
        fail(f"there is no device {name}: `headwater devices list` shows which there are")
    return found[0]


class _Teller:
    """Says the first sentences and counts the others."""

    def __init__(self) -> None:
        self._told = 0

    def tell(self, text: str) -> None:
        self._told += 1
        if self._told <= TOLD_MAX:
            print(text, file=_stderr())

    def close(self) -> None:
        if self._told > TOLD_MAX:
            print(f"... and {self._told - TOLD_MAX} lines more", file=_stderr())


def _progress(file: Path) -> Any:
    """A context that gives a function of the bytes done; a bar only where a person watches."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar() -> Any:
        console = Console(stderr=True)
        columns = (TextColumn("importing"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("import", total=file.stat().st_size or None)
            yield lambda done: progress.update(task, completed=done)

    return bar()


def _stderr() -> Any:
    import sys

    return sys.stderr
