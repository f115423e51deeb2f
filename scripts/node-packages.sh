#!/usr/bin/env bash
# Node.js, and in tests/e2e/clients/js exactly what its package-lock.json says. Quick when nothing has changed. Debian's
# packages are installed where there is no Node.js and where we may; what is missing is said, and the tests say it again.
set -uo pipefail
cd "$(dirname "$0")/.."

NODE_MIN=18
DIRECTORY=tests/e2e/clients/js
STAMP="$DIRECTORY/node_modules/.headwater-lock"

wanted() { cat "$DIRECTORY/package.json" "$DIRECTORY/package-lock.json" | sha256sum | cut -d' ' -f1; }
[ "$(cat "$STAMP" 2>/dev/null)" = "$(wanted)" ] && command -v node >/dev/null && exit 0

scripts/system-packages.sh nodejs npm
major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p')
if [ "${major:-0}" -lt "$NODE_MIN" ] || ! command -v npm >/dev/null; then
    echo "JavaScript clients cannot be tested: there is no Node.js $NODE_MIN or newer with npm. Debian: apt-get install nodejs npm" >&2
    exit 0
fi
if npm ci --prefix "$DIRECTORY" --no-progress --loglevel error >&2; then
    wanted >"$STAMP"
else
    echo "JavaScript clients cannot be tested: npm ci failed in $DIRECTORY" >&2
fi
exit 0
