#!/usr/bin/env bash
# Writes constraints.txt: what a fresh environment resolves pyproject.toml to today, pinned.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/make-venv.sh "$fresh/venv"
"$fresh/venv/bin/pip" install --quiet --disable-pip-version-check --upgrade setuptools
"$fresh/venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation --editable '.[dev,docs]'
{
    echo "# Written by \`make lock\`: the versions that are installed and tested."
    "$fresh/venv/bin/pip" freeze --exclude-editable --all | grep -vi '^pip=='
} >"$fresh/constraints.txt"
cp "$fresh/constraints.txt" constraints.txt
