"""Settings as seen from outside: of a home's own engines where there is one, of the environment otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headwater.app import settings
from headwater.app.engines.nats import USER
from headwater.app.home import Home
from headwater.app.own_engines import DATABASE
from headwater.app.settings import Settings
from headwater.database import roles


def read(home: Path) -> Settings:
    """Does not make a home where there is none."""
    given = settings.read()
    found = Home(home)
    secrets, decisions = found.find_secrets(), found.find_decisions()
    if secrets is None or decisions is None:
        return given
    database, stream = given.database, given.nats
    if not (database.owner_url or database.url) and decisions.postgres_port:
        at = f"@127.0.0.1:{decisions.postgres_port}/{DATABASE}"
        app, writer, operator = (f"postgresql://{role}:{secrets.roles[role]}{at}" for role in roles.ROLES)
        owner = f"postgresql://postgres:{secrets.postgres}{at}"
        database = replace(database, url=app, writer_url=writer, operator_url=operator, owner_url=owner)
    if not stream.url and decisions.nats_port:
        stream = replace(
            stream, url=f"nats://127.0.0.1:{decisions.nats_port}", user=USER, password=secrets.nats,
            uplink_bytes_max=decisions.uplink_bytes_max,
        )  # fmt: skip
    return replace(given, database=database, nats=stream)
