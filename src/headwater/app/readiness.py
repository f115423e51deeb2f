"""How a role tells whoever started it that it serves: one line on a file descriptor that it inherited."""

from __future__ import annotations

import os

VARIABLE = "HEADWATER_READY_FD"
LINE = b"READY\n"


def announce_ready() -> None:
    """Once, when everything is open. Does nothing where nobody asked (a role that an operator started)."""
    descriptor = os.environ.pop(VARIABLE, None)
    if descriptor is None:
        return
    try:
        os.write(int(descriptor), LINE)
        os.close(int(descriptor))
    except OSError:  # whoever asked is gone; that is no reason not to serve
        return
