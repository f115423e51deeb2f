"""How the registry says no. Facts only; the edges map the codes."""

from __future__ import annotations

from headwater.errors import Conflict, Invalid


class FilterInvalid(Invalid):
    """The text of a filter or of a sort key is not in the language. Knows where."""

    code = "filter.invalid"

    def __init__(self, detail: str, position: int) -> None:
        super().__init__(f"{detail} (at character {position + 1})", position=position + 1)
        self.position = position


class PositionInvalid(Conflict):
    """The place in a list does not belong to this order of it."""

    code = "sort.position_invalid"


class ProfileInvalid(Invalid):
    """A part of the profile is not what it has to be; `pointer` says which."""

    code = "profile.invalid"

    def __init__(self, detail: str, pointer: str) -> None:
        super().__init__(detail, pointer=pointer)
        self.pointer = pointer


class ProfileContradictory(Conflict):
    """The profile's parts contradict each other; `pointer` says which."""

    code = "profile.contradictory"

    def __init__(self, detail: str, pointer: str) -> None:
        super().__init__(detail, pointer=pointer)
        self.pointer = pointer


class ProfileInUse(Conflict):
    """Devices still have this profile: give them another first."""

    code = "profile.in_use"


class DeviceInvalid(Invalid):
    """A device's field is out of its bounds; `field` says which."""

    code = "device.invalid"

    def __init__(self, detail: str, field: str) -> None:
        super().__init__(detail, field=field)
        self.field = field


class DeviceDecommissioned(Conflict):
    """Terminal: nothing but deleting is left to do."""

    code = "device.decommissioned"


class CredentialLimit(Conflict):
    """The device has as many usable credentials as it may: revoke one first."""

    code = "credential.limit"


class GroupInvalid(Invalid):
    """A group's field is out of its bounds, or does not fit its kind; `field` says which."""

    code = "group.invalid"


class GroupInUse(Conflict):
    """Tokens are limited to this group, and would end with it: delete them first."""

    code = "group.in_use"


class ImportInvalid(Invalid):
    """The file as a whole cannot be read; single bad lines are reported, not raised."""

    code = "import.invalid"


class ExportTooWide(Conflict):
    """More different labels and attributes than a table should have columns: export NDJSON."""

    code = "export.too_wide"
