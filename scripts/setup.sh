#!/usr/bin/env bash
# Makes .venv with exactly what requirements.lock says. Quick when nothing has changed.
#   PYTHON=...   which Python to use; otherwise the distribution's, where it is 3.11 or newer, and then whatever the PATH has.
#                Distributions build theirs with profiles and link-time optimisation; one that is compiled without (pyenv's
#                default) takes a fifth to a half longer for what Python itself does.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
VENV=.venv
STAMP="$VENV/.headwater-setup"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { say "setup: $*"; exit 1; }

wanted() { sha256sum requirements.lock pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1; }

# Python writes no bytecode where PYTHONDONTWRITEBYTECODE is set, and would then compile everything at each start.
compile_source() { "$VENV/bin/python" -m compileall -q src; }

if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null && [ "$(cat "$STAMP" 2>/dev/null)" = "$(wanted)" ]; then
    compile_source
    exit 0
fi

can_make_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
    local candidate version found=
    for candidate in ${PYTHON:-/usr/bin/python3.11 /usr/bin/python3 python3.11 python3 python3.12 python3.13}; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null) ||
            continue
        found=$version
        can_make_environments "$candidate" || scripts/system-packages.sh "python$version-venv" >&2
        if can_make_environments "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    [ -z "$found" ] || die "no Python here can make environments: install python$found-venv, or set PYTHON"
    die "no Python 3.11 or newer${PYTHON:+ is $PYTHON}: install it (Debian 12: apt-get install python3 python3-venv), or set PYTHON"
}

if ! { [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; }; then
    python=$(find_python)
    say "making $VENV with $("$python" --version)"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
fi

say "installing $(grep -c == requirements.lock) packages"
if [ -x "$VENV/bin/uv" ] || "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"; then
    export VIRTUAL_ENV="$PWD/$VENV"
    installer() { "$VENV/bin/uv" pip install --quiet "$@"; }
else
    say "uv cannot be installed; pip does the same, more slowly"
    installer() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
fi
install_all() {
    installer -r requirements.lock
    # The build tool is in the lock, so building needs no packages of its own.
    installer --no-deps --no-build-isolation --editable .
}
if ! install_all; then
    # pip may know indexes that uv does not.
    say "that failed; trying with pip"
    installer() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
    install_all
fi
"$VENV/bin/python" -m compileall -q -j 0 "$VENV"/lib >/dev/null || true  # some packages carry files for other Pythons
compile_source
wanted >"$STAMP"
say "ready: $VENV"
