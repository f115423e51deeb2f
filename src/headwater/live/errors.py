"""How watching live is refused or ends."""

from __future__ import annotations

from headwater.errors import DomainError, Invalid, QuotaExceeded, Unauthenticated, Unavailable


class TooManyWatchers(QuotaExceeded):
    """The tenant has as many watchers at once as its quotas allow."""

    code = "live.too_many_watchers"


class SelectionTooWide(DomainError):
    """A group or a query that names more devices than one watcher may follow."""

    code = "live.selection_too_wide"


class HubClosed(Unavailable):
    """This API server is going away; another one, or the same one again, goes on where it ended."""

    code = "live.server_closing"


class TicketInvalid(Unauthenticated):
    """A ticket for the event stream is wrong, expired or used; ask for a new one."""

    code = "live.ticket_invalid"


class NotUnderstood(Invalid):
    """What came over the WebSocket is not one of the messages in docs/reference/live.md, or came at the wrong time."""

    code = "live.not_understood"


class ReplayFailed(Unavailable):
    """The live stream cannot be read now; watchers hear "missed" instead."""

    code = "live.replay_failed"
