"""`headwater migrate`."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EXAMPLES = """
Example:  HEADWATER_DATABASE_OWNER_URL=postgresql://postgres:...@db/headwater headwater migrate

Needs HEADWATER_DATABASE_OWNER_URL. Where the URLs of the roles are given too (HEADWATER_DATABASE_URL, _WRITER_URL,
_OPERATOR_URL), the roles get the passwords that stand in them. Where HEADWATER_NATS_URL is given, the streams are made.
Safe to run from several places at once.
"""


@app.command(epilog=EXAMPLES)
def migrate() -> None:
    """Bring the schema and the streams up to date."""
    import asyncio

    from headwater.app import migration, settings

    for line in asyncio.run(migration.migrate_all(settings.read())):
        print(line)
