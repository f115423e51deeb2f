"""Logging of every process: structlog, one JSON object a line (or lines for people), on standard error.

Libraries that use the standard library's logging come out the same way. Secrets never do: members whose name says so are
masked, and so is whatever looks like one of our tokens or carries a password in a URL.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

_SECRET_NAMES = frozenset(
    {"password", "secret", "token", "authorization", "cookie", "set-cookie", "secret_key", "admin_token"}
)
_SECRET_TEXT = re.compile(r"\b(hw[a-z]_[0-9a-f]{32})_[A-Za-z0-9_-]{43}|(//[^/:@\s]*):[^@/\s]+@")
MASK = "***"

Event = MutableMapping[str, Any]


def configure(level: str = "INFO", log_format: str = "json", *, process: str = "") -> None:
    """Once per process, first of all. process: what stands in every line (`gateway-0`)."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if log_format == "console"
        else structlog.processors.JSONRenderer(serializer=_to_json)
    )
    named = [_name_process(process)] if process else []
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *named,
                structlog.processors.format_exc_info,
                mask,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(getattr(logging, level, logging.INFO))
    for chatty in ("nats", "asyncio", "httpx", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(max(root.level, logging.WARNING))


def mask(_logger: Any, _method: str, event: Event) -> Event:
    """A processor: hides what must not be read in a log."""
    for name, value in event.items():
        if name.lower() in _SECRET_NAMES and value:
            event[name] = MASK
        elif isinstance(value, str):
            event[name] = mask_text(value)
    return event


def mask_text(text: str) -> str:
    return _SECRET_TEXT.sub(lambda m: f"{m[1]}_{MASK}" if m[1] else f"{m[2]}:{MASK}@", text)


def _name_process(process: str) -> Any:
    def add(_logger: Any, _method: str, event: Event) -> Event:
        event.setdefault("process", process)
        return event

    return add


def _to_json(event: Event, **_options: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
