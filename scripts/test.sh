#!/usr/bin/env bash
# All tests, a layer at a time, quick ones first; stops at the first layer that fails.
#   TEST_PROCESSES=N   processes for the layers that may run side by side (default 2)
set -euo pipefail
cd "$(dirname "$0")/.."

processes=${TEST_PROCESSES:-2}

layer() { # directory, options...
    local directory=$1
    shift
    [ -n "$(find "$directory" -name 'test_*.py' -print -quit 2>/dev/null)" ] || return 0
    printf '\033[1m%s\033[0m\n' "$directory" >&2
    .venv/bin/pytest -q "$directory" "$@"
}

layer tests/unit -n "$processes"
layer tests/conformance -n "$processes"
layer tests/integration -n "$processes"
# Each of these starts a whole installation, and some measure time: one after the other.
layer tests/e2e
layer tests/chaos
layer tests/load
