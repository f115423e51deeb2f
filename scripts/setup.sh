#!/usr/bin/env bash
# Makes .venv with exactly what requirements.lock says. Quick when nothing has changed.
#   PYTHON=...   which Python to use; otherwise the first of python3.11, python3, python3.12, python3.13 that is 3.11 or newer
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

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 /usr/bin/python3.11 python3 python3.12 python3.13; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer: install it (Debian 12: apt-get install python3 python3-venv), or set PYTHON"
}

if ! { [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; }; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        scripts/system-packages.sh "python$version-venv"
        "$python" -c 'import ensurepip, venv' 2>/dev/null || die "$python cannot make environments: install python$version-venv"
    fi
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
