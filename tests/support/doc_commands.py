"""The commands of a page of the documentation, run where they harm nothing.

A block of commands, fenced or indented, runs if a comment stands before it:

    <!-- run -->            the commands end, each with status 0
    <!-- run: serve -->     each line is a process that goes on; it has to say that it is ready
    <!-- run: stop -->      (no block) what goes on is ended
    <!-- run: afresh -->    (no block) and what was made is forgotten
    <!-- run: guest -->     for the virtual machine of the Linux initiator's tests
    <!-- not run: WHY -->   they cannot run here

Commands stand in fences of `sh`, each with one of these before it (in README, indented).

They have namespaces of their own, where every port is free and only loopback is there, and a folder
of their own with the Makefile and the `.venv` of the project, in their path. What they put below
/run and /srv goes there too.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.lunmesh_server import PROJECT_ROOT

_MARK = re.compile(
    r"^<!-- run(?:: (?P<how>\w+))? -->\n+"
    r"(?:```\w*\n(?P<fenced>.*?)^```$|(?P<indented>(?:    [^\n]*\n)+))?",
    re.M | re.S,
)
_SHELL = re.compile(r"(?P<before>[^\n]*)\n *```(?:sh|bash|console)\n(?P<first>[^\n]*)")
_SAID = re.compile(r" *<!-- (run(: \w+)?|not run: .+) -->")
# Commands that are in no fence of `sh`: indented by four after an empty line, or in a bare one.
_BARE = re.compile(
    r"(?:^\n {4}|^```\n)(?P<first>(?:\S*/)?(?:lunmesh|make|pip|sudo) [a-z-][^\n]*)", re.M
)
_SHARED = ("Makefile", ".venv", "deploy")
# What `make install` looks at: empty and as old as can be, so that there is nothing to install.
_SETTLED = ("pyproject.toml", "constraints.txt", "tools/make-venv.sh")
_READY = "lunmesh( worker)? ready:|[Rr]eady to accept connections"
_PRELUDE = f"""\
set -eu
PATH="$PWD/.venv/bin:$PATH"
ip link set lo up
pids=()
finish() {{  # the last first: nodes, then what they stand on
    while [ ${{#pids[@]}} -gt 0 ]; do
        pid=${{pids[-1]}}
        unset 'pids[-1]'
        kill "$pid" 2>/dev/null || true
        wait "$pid" || true
    done
}}
trap finish EXIT
serve() {{  # a log, a command: until it is ready
    setsid bash -c "exec $2" >"$1" 2>&1 </dev/null &
    pids+=($!)
    for _ in $(seq 600); do
        if grep -qE '{_READY}' "$1"; then return; fi
        if ! kill -0 $! 2>/dev/null; then break; fi
        sleep 0.05
    done
    echo "not ready: $2"; cat "$1"; exit 1
}}
"""


def has_commands(page: str) -> bool:
    """Other than those for the virtual machine."""
    return any(mark["how"] != "guest" for mark in _MARK.finditer(page))


def unmarked(page: str) -> list[str]:
    """The first command of each block that says neither that it runs nor why it does not."""
    found = [it["first"] for it in _SHELL.finditer(page) if not _SAID.fullmatch(it["before"])]
    return found + [it["first"] for it in _BARE.finditer(page)]


def guest_commands(page: str) -> list[str]:
    """The blocks for the virtual machine."""
    return [mark["fenced"] or "" for mark in _MARK.finditer(page) if mark["how"] == "guest"]


def script(page: str, folder: Path) -> str:
    """What bash has to run in ``folder``. ValueError of a mark that is none."""
    parts, logs = [_PRELUDE], 0
    for mark in _MARK.finditer(page):
        block = mark["fenced"] or re.sub("^    ", "", mark["indented"] or "", flags=re.M)
        for place in ("/run", "/srv"):
            block = block.replace(f"{place}/", f"{folder}{place}/")
            block = re.sub(rf"{place}(?=\s|$)", f"{folder}{place}", block)
        match mark["how"]:
            case None:
                parts.append(f"{block}\n")
            case "serve":
                for line in block.replace("\\\n", " ").splitlines():
                    command = line.partition("  #")[0].rstrip(" &")
                    parts.append(f"serve log{logs} {shlex.quote(command)}\n")
                    logs += 1
            case "guest":
                pass
            case "stop":
                parts.append("finish\n")
            case "afresh":
                parts.append("finish\nrm -rf lunmesh-data srv run; mkdir srv run\n")
            case other:
                raise ValueError(f"<!-- run: {other} --> is not known")
    return "".join(parts)


def cannot_run() -> str:
    """Why no page can be run here, or nothing."""
    done = subprocess.run([*_apart(), "true"], capture_output=True, text=True, check=False)
    return f"namespaces are not permitted: {done.stderr.strip()}" if done.returncode else ""


def _apart() -> list[str]:
    """What a command is put behind: all that it starts, servers too, ends with this one process."""
    apart = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return apart if os.geteuid() == 0 else [*apart, "--map-root-user"]


def run_page(page: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run its commands; nothing of them is left when this returns."""
    # Short, for Unix sockets.
    with tempfile.TemporaryDirectory(prefix="doc-") as name:
        folder = Path(name)
        for shared in _SHARED:
            (folder / shared).symlink_to(PROJECT_ROOT / shared)
        for made in ("run", "srv", "tools"):
            (folder / made).mkdir()
        for settled in _SETTLED:
            (folder / settled).touch()
            os.utime(folder / settled, (0, 0))
        with subprocess.Popen(
            [*_apart(), shutil.which("bash") or "bash", "-xc", script(page.read_text(), folder)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
            return subprocess.CompletedProcess(page.name, process.returncode, output, "")
