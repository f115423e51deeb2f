"""A person's own account, whatever tenants he or she works for."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from headwater.database.session import Database
from headwater.errors import NotFound
from headwater.tenancy import postgres_sessions as postgres
from headwater.tenancy.identity import Identity
from headwater.tenancy.passwords import Passwords
from headwater.tenancy.scope import Role
from headwater.tenancy.sessions import Membership, SessionPerson, SessionService


@dataclass(frozen=True, slots=True)
class AccountService:
    database: Database
    passwords: Passwords
    sessions: SessionService

    async def person(self, person_id: UUID) -> SessionPerson:
        async with self.database.lookup_session() as connection:
            row = await postgres.find_person(connection, person_id)
        if row is None:
            raise NotFound("no such person")
        return SessionPerson(row["id"], row["email"], row["name"], row["operator"])

    async def tenants(self, person_id: UUID) -> list[Membership]:
        async with self.database.lookup_session() as connection:
            return [
                Membership(r["tenant_id"], r["tenant_slug"], r["tenant_name"], r["tenant_status"], Role(r["role"]))
                for r in await postgres.memberships_of(connection, person_id)
            ]

    async def rename(self, person_id: UUID, name: str) -> SessionPerson:
        async with self.database.lookup_session() as connection:
            await postgres.set_name(connection, person_id, name)
        return await self.person(person_id)

    async def change_password(self, identity: Identity, current: str, new: str) -> None:
        """Every other session of the person ends. Raises CredentialsWrong, TooManyAttempts."""
        assert identity.person_id is not None
        person = await self.person(identity.person_id)
        await self.sessions.check_password(person.email, current, identity.address)
        password_hash = await self.passwords.hash(new)
        async with self.database.lookup_session() as connection, connection.transaction():
            await postgres.set_password(connection, identity.person_id, password_hash)
            await postgres.end_sessions_of(connection, identity.person_id, but=identity.session_id)
