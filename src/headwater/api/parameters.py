"""Parameters that several operations take, each said once: which thing a path names, and a range of time.

Lists have two more, `pagination.py`; what only one noun takes stands in its file.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar.params import PathParameter, QueryParameter

CredentialInPath = Annotated[UUID, PathParameter(description="The credential's id, as the list of credentials tells it.")]
DeviceInPath = Annotated[UUID, PathParameter(description="The device's id, not its external id.")]
GroupInPath = Annotated[UUID, PathParameter(description="The group's id.")]
InvitationInPath = Annotated[UUID, PathParameter(description="The invitation's id, not its token.")]
OperatorTokenInPath = Annotated[UUID, PathParameter(description="The operator token's id, not its secret.")]
PersonInPath = Annotated[UUID, PathParameter(description="The person's id, which is the same in every tenant.")]
ProfileInPath = Annotated[UUID, PathParameter(description="The profile's id, not its name.")]
TenantInPath = Annotated[UUID, PathParameter(description="The tenant's id, not its slug.")]
TokenInPath = Annotated[UUID, PathParameter(description="The token's id, not its secret.")]

Since = Annotated[datetime | None, QueryParameter(description="Only entries of this time or later.")]
Until = Annotated[datetime | None, QueryParameter(description="Only entries before this time.")]
"""`since: Since = None, until: Until = None` in a handler's parameters."""
