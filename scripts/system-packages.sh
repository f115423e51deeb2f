#!/usr/bin/env bash
# Installs Debian packages that are missing, where we may (root, or sudo without a password); otherwise says what to do.
# A package counts as there when a program of its name is, or when dpkg knows it. Never fails: what needs it says so itself.
set -uo pipefail

missing=()
for package in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$package" >/dev/null && continue
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' && continue
    missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "missing: ${missing[*]}. As root: apt-get install ${missing[*]}" >&2
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}. Install them with this system's package manager" >&2
    exit 0
fi
echo "installing ${missing[*]}" >&2
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >/dev/null; }
apt install --yes --no-install-recommends "${missing[@]}" 2>/dev/null && exit 0
apt update && apt install --yes --no-install-recommends "${missing[@]}" && exit 0
echo "could not install ${missing[*]}: try apt-get install ${missing[*]}" >&2
exit 0
