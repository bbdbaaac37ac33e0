#!/usr/bin/env bash
# Looks for known vulnerabilities of what constraints.txt pins, with pip-audit in an environment of its own.  Where
# pip-audit, or the database that it asks, cannot be reached it says so: nothing was found then, and nothing checked.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/make-venv.sh "$fresh/venv" >/dev/null
if ! "$fresh/venv/bin/pip" install --quiet --disable-pip-version-check pip-audit 2>"$fresh/said"; then
    echo "not checked: pip-audit cannot be installed here"
    exit 0
fi
status=0
timeout "${AUDIT_SECONDS:-120}" "$fresh/venv/bin/pip-audit" --requirement constraints.txt --no-deps --disable-pip \
    --progress-spinner off --timeout 5 >"$fresh/said" 2>&1 || status=$?
unknown=$(grep -c "could not be audited" "$fresh/said" || true)
if [ "$unknown" -gt 0 ]; then  # which pip-audit does not call a failure
    echo "not checked: the database of vulnerabilities does not answer for $unknown of $(grep -c == constraints.txt) packages"
    exit "$status"
fi
if [ "$status" -gt 1 ] || grep -q "Traceback\|ConnectionError\|Could not connect\|Max retries" "$fresh/said"; then
    echo "not checked: the database of vulnerabilities cannot be reached"
    exit 0
fi
cat "$fresh/said"
exit "$status"
