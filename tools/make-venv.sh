#!/usr/bin/env bash
# Makes the virtual environment named by $1 with the first Python >= 3.11 found, or says in one line what
# is missing.  Bare Debian 12 has python3 without ensurepip: python3-venv is installed when we are root.
set -euo pipefail
venv=$1

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local name
    # $PYTHON wins; a numbered name may be a shim of a version manager that does not run, hence `usable`.
    for name in ${PYTHON:-} python3 python3.11 python3.12 python3.13 python3.14; do
        if usable "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

install_debian() {
    local packages=$1 why=$2
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing Debian packages: $packages"
        apt-get update -qq
        # shellcheck disable=SC2086  # a list
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
    else
        echo "$why: sudo apt-get install $packages" >&2
        exit 1
    fi
}

if ! python=$(find_python); then
    install_debian "python3 python3-venv" "no Python >= 3.11 found (set PYTHON to name one)"
    python=$(find_python) || { echo "no Python >= 3.11 found: set PYTHON to name one" >&2; exit 1; }
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # The unversioned package serves Debian's own python3 only; others bring a package of their version.
    package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    install_debian "$package" "$python lacks the venv module"
fi
echo "making $venv with $("$python" --version)"
"$python" -m venv "$venv"
