"""`headwater dead-letters`: messages that could not be stored; read them, mend the profile, replay them."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from headwater.cli.client import TOKEN_HELP, URL_HELP, APIClient, connect, fail
from headwater.cli.up import DEFAULT_HOME, HOME_HELP

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

URL = typer.Option("", "--url", envvar="HEADWATER_URL", help=URL_HELP)
TOKEN = typer.Option("", "--token", envvar="HEADWATER_TOKEN", help=TOKEN_HELP)
HOME = typer.Option(DEFAULT_HOME, "--home", envvar="HEADWATER_HOME", help=HOME_HELP)
DEVICE = typer.Option("", "--device", help="Only letters of the device with this id.")
CODE = typer.Option("", "--code", help="Only letters with this error code, as in payload.malformed.")
SINCE = typer.Option("", "--from", help="Received at or after this time (RFC 3339).")
UNTIL = typer.Option("", "--to", help="Received before this time (RFC 3339).")
SEQUENCES = typer.Argument(None, help="Numbers of letters, as `list` shows them.", metavar="NUMBER...")
ALL = typer.Option(False, "--all", help="All letters that the options find, instead of single ones.")
PATH = "/dead-letters"
PAGE_MAX = 1000


@app.callback()
def dead_letters() -> None:
    """Messages that could not be stored: list, inspect, replay, delete."""


@app.command("list", epilog="Example:  headwater dead-letters list --code payload.malformed --limit 10")
def list_(
    device: str = DEVICE,
    code: str = CODE,
    since: str = SINCE,
    until: str = UNTIL,
    oldest_first: bool = typer.Option(False, "--oldest-first", help="Default: newest first."),
    limit: int = typer.Option(50, min=1, help="How many at most."),
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """One line a letter: number, time, device, code, topic, and the beginning of the payload."""
    client = connect(url, token, home)
    query = {**_filter(device, code, since, until), "order": "asc" if oldest_first else "desc"}
    for number, letter in enumerate(_letters(client, query, limit)):
        if number == 0:
            print(f"{'NUMBER':>10}  {'RECEIVED':<27}  {'DEVICE':<36}  {'CODE':<24}  TOPIC  PAYLOAD")
        preview = letter["preview"] if letter["preview"] is not None else f"({letter['payload_bytes']} bytes)"
        print(
            f"{letter['sequence']:>10}  {letter['received_at']:<27}  {letter['device_id'] or '-':<36}  {letter['code']:<24}"
            f"  {_plain(letter['topic'])}  {_plain(preview[:60])}"
        )


@app.command(epilog="Example:  headwater dead-letters show 7 --raw > payload.bin")
def show(
    number: int = typer.Argument(help="The letter's number."),
    raw: bool = typer.Option(False, "--raw", help="Write the payload's bytes to standard output, and nothing else."),
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """One letter, whole."""
    letter = connect(url, token, home).json("GET", f"{PATH}/{number}")
    payload = base64.b64decode(letter["payload"])
    if raw:
        sys.stdout.buffer.write(payload)
        return
    for name in (
        "sequence",
        "received_at",
        "device_id",
        "source",
        "topic",
        "content_type",
        "code",
        "detail",
        "payload_bytes",
    ):
        print(f"{name:<14} {_plain(str(letter[name]))}")
    print()
    print(_readable(payload))


@app.command(epilog="Example:  headwater dead-letters replay --all --code metric.unknown")
def replay(
    numbers: list[int] = SEQUENCES,
    everything: bool = ALL,
    device: str = DEVICE,
    code: str = CODE,
    since: str = SINCE,
    until: str = UNTIL,
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """Read letters again by their devices' profiles as they are now. What was stored is deleted; what is refused again is
    kept and named: exit code 1. Safe to repeat."""
    client = connect(url, token, home)
    replayed = records = refused = 0
    for result in _results(client, "replay", numbers, everything, _filter(device, code, since, until)):
        replayed += result["replayed"]
        records += result["records"]
        refused += result["refused_count"]
        for one in result["refused"]:
            print(f"{one['sequence']}: {_plain(one['detail'])} [{one['code']}]", file=sys.stderr)
    print(f"{replayed} letters replayed, {records} records stored, {refused} letters refused and kept")
    if refused:
        raise typer.Exit(1)


@app.command(epilog="Example:  headwater dead-letters delete --all --to 2026-01-31T12:00:00Z")
def delete(
    numbers: list[int] = SEQUENCES,
    everything: bool = ALL,
    device: str = DEVICE,
    code: str = CODE,
    since: str = SINCE,
    until: str = UNTIL,
    url: str = URL,
    token: str = TOKEN,
    home: Path = HOME,
) -> None:
    """Delete letters, for good."""
    client = connect(url, token, home)
    deleted = 0
    for result in _results(client, "delete", numbers, everything, _filter(device, code, since, until)):
        deleted += result["deleted"]
    print(f"{deleted} letters deleted")


def _filter(device: str, code: str, since: str, until: str) -> dict[str, str]:
    given = {"device_id": device, "code": code, "from": since, "to": until}
    return {name: value for name, value in given.items() if value}


def _letters(client: APIClient, query: dict[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    """A page may be short or empty before the end: only a missing cursor is the end."""
    query = {**query, "limit": min(limit, PAGE_MAX)}
    while limit > 0:
        page = client.json("GET", PATH, query=query)
        yield from page["items"][:limit]
        limit -= len(page["items"])
        query["cursor"] = page["next_cursor"]
        if query["cursor"] is None:
            return


def _results(
    client: APIClient, verb: str, numbers: list[int] | None, everything: bool, wanted: dict[str, str]
) -> Iterator[dict[str, Any]]:
    if bool(numbers) == everything:
        fail(f"say which letters to {verb}: numbers, or --all with or without --device, --code, --from, --to")
    if numbers and wanted:
        fail("--device, --code, --from and --to go with --all, not with numbers")
    for number in numbers or ():
        if verb == "replay":
            yield client.json("POST", f"{PATH}/{number}/replay")
        else:
            client.send("DELETE", f"{PATH}/{number}")
            yield {"deleted": 1}
    cursor = None
    while everything:
        body = {**wanted, "cursor": cursor} if cursor else wanted
        result = client.json("POST", f"{PATH}/{verb}", body)
        yield result
        cursor = result["next_cursor"]
        if cursor is None:
            return


def _plain(text: str) -> str:
    """What a device sent never steers the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _readable(payload: bytes) -> str:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return _hexadecimal(payload)
    return "\n".join(_plain(line) for line in text.splitlines())


def _hexadecimal(payload: bytes) -> str:
    lines = []
    for start in range(0, len(payload), 16):
        piece = payload[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{start:08x}  {piece.hex(' '):<47}  {text}")
    return "\n".join(lines)
