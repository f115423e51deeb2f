"""What `headwater up` says to the person who started it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

if TYPE_CHECKING:
    from headwater.app.all_in_one import Ready


class UpTerminal:
    """Implements headwater.app.all_in_one.Terminal."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._console = Console(highlight=False, soft_wrap=True)
        self._started = time.monotonic()

    def progress(self, text: str) -> None:
        self._print(f"[dim]{self._seconds()}[/dim] {escape(text)}")

    def problem(self, text: str) -> None:
        self._print(f"[dim]{self._seconds()}[/dim] [yellow]{escape(text)}[/yellow]")

    def ready(self, ready: Ready, first_time: bool) -> None:
        table = Table.grid(padding=(0, 2))
        for label, value in self._rows(ready, first_time):
            table.add_row(f"[bold]{label}[/bold]", escape(value))
        title = f"Headwater is ready ({time.monotonic() - self._started:.1f} s)"
        self._print(Panel(table, title=title, border_style="green", expand=False))
        self._print("Ctrl-C drains and stops everything.")

    def _print(self, what: RenderableType) -> None:
        # A terminal that is gone must not end what it watched; rich ends the program where a pipe is broken.
        with suppress(OSError, SystemExit):
            self._console.print(what)

    def _rows(self, ready: Ready, first_time: bool) -> list[tuple[str, str]]:
        rows = [
            ("Console", f"{ready.http_url}/"),
            ("API", f"{ready.http_url}/api/v1"),
            ("API docs", f"{ready.http_url}/docs"),
            ("MQTT", ready.mqtt_url),
            ("MQTT over TLS", ready.mqtts_url or "off"),
            ("MQTT over WebSocket", ", ".join(url for url in (ready.ws_url, ready.wss_url) if url) or "off"),
            *([("  trust", ready.ca_file)] if ready.ca_file and (ready.mqtts_url or ready.wss_url) else []),
            ("HTTP ingest", ready.ingest_url),
            ("Tenant", ready.tenant),
            ("Sign in as", ready.admin_email),
        ]
        if first_time and ready.admin_password is not None:
            rows.append(("Password", f"{ready.admin_password}   (shown once: keep it)"))
        else:
            rows.append(
                ("Password", f"was shown at the first start; a new one: headwater person password {ready.admin_email}")
            )
            rows.append(("", f"  --home {self._home}"))
        rows.append(("Home", str(self._home.expanduser().absolute())))
        return rows

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:6.1f} s"
