"""Types of the texts that people write: their bounds are in the API's description, where clients can read them.

PostgreSQL keeps no U+0000, so no text may hold it.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

NO_NUL = r"^[^\x00]*$"
SPACES = r"\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What Python takes for white space, for a class in brackets: `\\s` means something else in every language that reads the
API's description (ECMA-262 counts U+FEFF and not U+0085, RE2 only ASCII)."""
TRIMMED = rf"^[^{SPACES}\x00](?:[^\x00]*[^{SPACES}\x00])?$"
"""Without outer spaces: two names that look alike are the same."""

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
OptionalName = Annotated[str, Meta(max_length=200, pattern=NO_NUL)]
Slug = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,36}$", examples=["acme"])]
EMail = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=254,
        # Not RFC 5322: something, one @, something. The address is a name here; nothing is sent to it.
        pattern=rf"^[^{SPACES}@\x00]+@[^{SPACES}@\x00]+$",
        examples=["ada@example.com"],
    ),
]
Password = Annotated[str, Meta(min_length=10, max_length=200, pattern=NO_NUL)]
"""At least ten characters (NIST SP 800-63B asks for eight); at most 200, so that hashing stays cheap."""
GivenPassword = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
"""One to compare, whatever rules it was made under."""
SecretText = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
