"""How tenancy refuses."""

from __future__ import annotations

from headwater.errors import Conflict, Forbidden, QuotaExceeded, Unauthenticated


class CredentialsWrong(Unauthenticated):
    """The e-mail address or the password is wrong; which of them is not told."""

    code = "auth.credentials_wrong"


class TokenExpired(Unauthenticated):
    """The token was good once. Refresh, log in again or make a new one."""

    code = "auth.token_expired"


class TokenRevoked(Unauthenticated):
    """The token or the session was ended before its time."""

    code = "auth.token_revoked"


class OneTimeTokenInvalid(Unauthenticated):
    """An invitation or password reset that does not exist, was used, was withdrawn or has expired."""

    code = "auth.one_time_token_invalid"


class TooManyAttempts(QuotaExceeded):
    """Too many wrong passwords lately; wait as long as Retry-After says."""

    code = "auth.too_many_attempts"


class PersonSuspended(Forbidden):
    """The person may not use the platform now."""

    code = "person.suspended"


class TenantSuspended(Forbidden):
    """The platform operator has suspended the tenant. Its devices and people are refused until it is resumed."""

    code = "tenant.suspended"


class NotAMember(Forbidden):
    """The person does not work for this tenant (any more)."""

    code = "auth.not_a_member"


class GroupScoped(Forbidden):
    """The token is limited to the devices of one group, and this operation is about more than that."""

    code = "auth.group_scoped"


class LastOwner(Conflict):
    """A tenant keeps at least one owner."""

    code = "person.last_owner"


class PersonShared(Conflict):
    """The person also works for others, so only he or she may change the password."""

    code = "person.shared"


class AlreadyMember(Conflict):
    """A person with this address already works for the tenant, or is already invited."""

    code = "person.already_member"


class SlugTaken(Conflict):
    """Another tenant has this slug."""

    code = "tenant.slug_taken"


class PermissionNotHeld(Forbidden):
    """Nobody can give away a permission that he or she does not hold."""

    code = "token.permission_not_held"


class TokenInUse(Conflict):
    """A token does not end itself: a program would lock itself out. A person can end it, or another token."""

    code = "token.in_use"


class TenantQuotaReached(QuotaExceeded):
    """The tenant has as many people, invitations or tokens as its quotas allow."""

    code = "tenant.quota_reached"
