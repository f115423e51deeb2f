"""Parameters that several operations take, each said once: which thing a path names.

Lists have two more, `pagination.py`; what only one noun takes stands in its file.
"""

from __future__ import annotations

from uuid import UUID

from litestar.params import FromPath

CredentialInPath = FromPath[UUID]
DeviceInPath = FromPath[UUID]
GroupInPath = FromPath[UUID]
ProfileInPath = FromPath[UUID]
