"""`headwater migrate`: schema, passwords of the roles, streams."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from headwater.app.engine_checks import check_nats, connect_database, nats_once
from headwater.app.settings import DatabaseSettings, Settings
from headwater.database import roles
from headwater.database.migrate import migrate
from headwater.stream.topology import ensure


async def migrate_all(settings: Settings) -> list[str]:
    """Returns what was done, a line each."""
    done = []
    connection = await connect_database(settings.database.owner_url, "DATABASE_OWNER_URL")
    try:
        applied = await migrate(connection)
        done.append("applied " + ", ".join(applied) if applied else "the schema is up to date")
        passwords = role_passwords(settings.database)
        if passwords:
            await roles.set_passwords(connection, passwords)
            done.append("set the passwords of " + ", ".join(passwords))
    finally:
        await connection.close()
    if settings.nats.url:
        await check_nats(settings.nats)
        async with nats_once(settings.nats) as client:
            await ensure(client.jetstream(), settings.nats.topology)
        done.append("the streams are there")
    return done


def role_passwords(settings: DatabaseSettings) -> dict[str, str]:
    """role -> password, for each URL that names a role of ours and carries a password."""
    passwords = {}
    for url in (settings.url, settings.writer_url, settings.operator_url):
        parts = urlsplit(url)
        if parts.username in roles.ROLES and parts.password:
            passwords[parts.username] = unquote(parts.password)
    return passwords
