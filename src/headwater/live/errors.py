"""How watching live is refused or ends."""

from __future__ import annotations

from headwater.errors import DomainError, QuotaExceeded, Unavailable


class TooManyWatchers(QuotaExceeded):
    code = "live.too_many_watchers"


class SelectionTooWide(DomainError):
    """A group or a query that names more devices than one watcher may follow."""

    code = "live.selection_too_wide"


class HubClosed(Unavailable):
    """This API server is going away; another one, or the same one again, goes on where it ended."""

    code = "live.server_closing"


class WatchingEnded(DomainError):
    """The right to watch has ended: the token was revoked or expired, or the person was removed."""

    code = "live.access_ended"


class ReplayFailed(Unavailable):
    """The live stream cannot be read now; watchers hear "missed" instead."""

    code = "live.replay_failed"
