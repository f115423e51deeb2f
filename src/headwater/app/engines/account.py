"""As whom the engines run, and where that account can reach.

PostgreSQL refuses root, so as root both engines run under an unprivileged account; as anybody else they run as ourselves.
The account must be able to walk to its data and to the binaries. Where a parent directory forbids it (a home below /root,
an environment below /root), data and binaries live below `SYSTEM_DIRECTORY` instead.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.errors import DomainError

SYSTEM_DIRECTORY = Path("/var/lib/headwater")
CANDIDATES = ("headwater", "postgres", "nobody")
"""In this order: made for us, made for PostgreSQL, there on every machine."""


class NoEngineAccount(DomainError):
    code = "engine.no_account"


class DirectoryUnreachable(DomainError):
    code = "engine.directory_unreachable"


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int

    @property
    def options(self) -> dict[str, Any]:
        """What subprocess needs to run something as this account, with none of our groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def engine_account(wanted: str = "") -> Account | None:
    """None = ourselves, which is right for everybody but root."""
    if os.geteuid() != 0:
        return None
    for name in (wanted,) if wanted else CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    names = wanted or ", ".join(CANDIDATES)
    raise NoEngineAccount(
        f"PostgreSQL refuses to run as root and there is no other account ({names}): set HEADWATER_ENGINE_USER"
    )


def can_reach(path: Path, account: Account | None) -> bool:
    """May the account walk to `path`? Looks at every directory above it, as the kernel will."""
    return account is None or all(_may_walk(parent, account) for parent in path.resolve().parents)


def _may_walk(directory: Path, account: Account) -> bool:
    try:
        status = directory.stat()
    except FileNotFoundError:
        return True  # will be made by us, with a mode that lets the account through
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == account.gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def engine_directory(home: Path, name: str, account: Account | None) -> Path:
    """The directory `name` of the home, owned by the account and closed to everybody else.

    Where the account cannot reach the home, the home holds a link to a directory below `SYSTEM_DIRECTORY`. Data that was
    somebody else's (a restored backup; an account that was made since) becomes the account's.
    Raises DirectoryUnreachable rather than begin anew beside data that it cannot reach.
    """
    link = home / name
    if account is not None:
        home.chmod(0o711)
    if link.is_symlink() or can_reach(link, account):
        target = link.resolve()
    elif link.exists():
        raise DirectoryUnreachable(f"the account of the engines cannot reach {link}: move the home below /var/lib or /srv")
    else:
        digest = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]
        target = SYSTEM_DIRECTORY / "homes" / digest / name
        link.symlink_to(target)
    _make(target.parent, 0o711) if link.is_symlink() else None
    target.mkdir(mode=0o700, exist_ok=True)
    if account is not None and target.stat().st_uid != account.uid:
        _give(target, account)
    target.chmod(0o700)
    return target


def _give(directory: Path, account: Account) -> None:
    """The directory last: should we be stopped before, we begin again. Links are given and not followed, whatever the
    earlier owner puts in our way meanwhile."""
    for _, directories, files, descriptor in os.fwalk(directory, topdown=False):
        for name in (*directories, *files):
            os.chown(name, account.uid, account.gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(directory, account.uid, account.gid)


def reachable_copy(source: Path, name: str, account: Account | None) -> Path:
    """`source` itself, or a copy of it (a file or a folder) that the account can reach, made once per version of it."""
    if can_reach(source, account):
        return source
    status = source.stat()
    version = hashlib.sha256(f"{source.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:12]
    target = SYSTEM_DIRECTORY / "engines" / f"{name}-{version}"
    if not target.exists():
        _make(target.parent, 0o755)
        scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        if source.is_dir():
            shutil.copytree(source, scratch)
        else:
            shutil.copy2(source, scratch)
        try:
            scratch.rename(target)
        except OSError:  # somebody else was faster
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """Replace a file as a whole; mode 0600, readable by the account only. Never follows a link that lies at `path`."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            if account is not None:
                os.fchown(file.fileno(), account.uid, account.gid)
            file.write(text)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _make(directory: Path, mode: int) -> None:
    """Make what is missing of a path, each part with a mode that lets others walk through."""
    for part in (*reversed(directory.parents), directory):
        if not part.exists():
            part.mkdir(exist_ok=True)
            part.chmod(mode)
