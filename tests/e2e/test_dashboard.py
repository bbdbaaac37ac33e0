"""The dashboard in Debian's Chromium: live numbers, abort, access, the page itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from target.block.pool import SEGMENT_BYTES
from tests.support import cdb
from tests.support import reservations as pr
from tests.support.held_commands import many_held
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import LunmeshServer, free_port
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.redis_server import RedisServer
from tests.support.tools import require_tool

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

PAGES = ("overview", "commands", "volumes", "sessions", "buffers", "nodes")
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
ABORTED_COMMAND = 0x0B
ROWS, ROW_BYTES_MAX = 100, 600  # of a page of commands, and of one in an answer
# A folder for screenshots of every page, to be looked at.
SCREENSHOTS = os.environ.get("LUNMESH_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = require_tool("chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


def open_page(browser: Any, server: LunmeshServer, page: str = "", **options: Any) -> Any:
    """A page, and ``page.wrong``: whatever it complained of, or asked of anybody else."""
    # A colour on its way to another has no contrast to be judged by.
    shown = browser.new_page(**({"viewport": WIDE, "reduced_motion": "reduce"} | options))
    shown.wrong = []
    origin = f"http://127.0.0.1:{server.admin_port}/"
    shown.on("pageerror", lambda error: shown.wrong.append(str(error)))
    shown.on(
        "request",
        lambda asked: (
            None if asked.url.startswith((origin, "data:")) else shown.wrong.append(asked.url)
        ),
    )
    shown.on(
        "console",
        lambda said: shown.wrong.append(said.text) if "Content Security" in said.text else None,
    )
    shown.goto(f"{origin}#{page}")
    return shown


def is_live(page: Any) -> None:
    playwright.expect(page.locator("#state")).to_have_text("live", timeout=15000)


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[list[LunmeshServer]]:
    """Which serve the same volumes on two workers."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(tmp_path / "redis"))
        arguments = ["--redis", redis.url, "--nop-interval", "0"]  # nobody answers pings
        for name in ("v", "w"):
            worker = LunmeshWorker(tmp_path / name, listen=f"127.0.0.1:{free_port()}")
            arguments += ["--worker", stack.enter_context(worker).address]
        yield [
            stack.enter_context(
                LunmeshServer(
                    tmp_path / name,
                    ["disk0=64M", "idle=16M"],
                    arguments=[*arguments, "--node-id", name],
                )
            )
            for name in ("a", "b")
        ]


def is_accessible(page: Any) -> None:
    found = axe.Axe().run(page).response["violations"]
    assert [(page.url, it["id"], it["nodes"][0]["html"]) for it in found] == []


def test_numbers_move_and_every_page_is_sound(browser: Any, two_nodes: list[LunmeshServer]) -> None:
    require_tool("iscsi-perf")
    server, busy = two_nodes
    command = ["iscsi-perf", "-b", "8", "-m", "8", "-r", "-t", "90", busy.url()]
    with Initiator(server.host, server.port, target=server.iqn, name="iqn.2026-11.x:db") as one:
        one.login()
        while one.command(cdb.TEST_UNIT_READY).sense_key == 6:
            pass
        register = pr.pr_out(pr.REGISTER_AND_IGNORE, 0, 24)
        assert one.command(register, data_out=pr.keys(0, 1)).status == 0
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # All of it is at the other node.
            page = open_page(browser, server)
            whose = page.get_by_text("Numbers of 2 nodes together: a, b", exact=True)
            playwright.expect(whose).to_be_visible(timeout=15000)
            tile = page.locator("[data-tile=IOPS]")
            playwright.expect(tile).to_have_text(re.compile(r"[1-9]\d+"), timeout=15000)
            before = tile.text_content()
            page.wait_for_function(
                "before => document.querySelector('[data-tile=IOPS]').textContent !== before",
                arg=before,
            )
            page.wait_for_function("() => document.querySelector('.chart path').getAttribute('d')")
            playwright.expect(page.locator("[data-tile=Sessions]")).to_have_text("2")
            page.close()
            for scheme, size, kind in (
                ("light", WIDE, "light"),
                ("dark", WIDE, "dark"),
                ("light", PHONE, "phone"),
            ):
                page = open_page(browser, server, viewport=size, color_scheme=scheme)
                for name in PAGES:
                    page.goto(f"http://127.0.0.1:{server.admin_port}/#{name}")
                    page.locator("main section").first.wait_for()
                    is_live(page)
                    if name == "commands":
                        page.locator("main [role=status]").get_by_text(" commands").wait_for()
                    if name not in ("overview", "commands"):
                        page.locator("main table").first.wait_for()
                    if name == "volumes":  # 64 MiB and 16 MiB, in chunks of 4 MiB
                        playwright.expect(page.locator(".cells i")).to_have_count(16 + 4)
                    if name == "buffers":
                        for part in (" of 256 MiB", "iqn.2026-11.x:db"):
                            playwright.expect(page.get_by_text(part).first).to_be_visible()
                    if SCREENSHOTS and name != "commands":
                        page.wait_for_timeout(6000 if name == "overview" else 300)
                        page.screenshot(path=f"{SCREENSHOTS}/dashboard-{name}-{kind}.png")
                    is_accessible(page)
                    overflow = "document.documentElement.scrollWidth - innerWidth"
                    assert page.evaluate(overflow) <= 0, (name, kind)
                assert page.wrong == []
                page.close()
        finally:
            load.kill()
            load.wait()


def test_a_command_is_seen_filtered_and_aborted(browser: Any, tmp_path: Path) -> None:
    with (
        LunmeshWorker(tmp_path / "w") as worker,
        LunmeshServer(
            tmp_path / "s", ["disk0=16M"], arguments=["--worker", worker.address]
        ) as server,
        Initiator(server.host, server.port, target=server.iqn, name="iqn.x:one") as one,
    ):
        one.login()
        while one.command(cdb.TEST_UNIT_READY).sense_key == 6:
            pass
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            task = one.start(cdb.write10(8, 1), data_out=bytes(512))
            one.socket.flush()
            page = open_page(browser, server, "commands")
            row = page.locator(".task:not(.head)")
            playwright.expect(row).to_have_count(1)
            assert "iqn.x:one" in row.text_content()
            page.get_by_label("Filter").fill("nobody")
            playwright.expect(row).to_have_count(0)
            page.get_by_label("Filter").fill("lun=0 iqn.x")
            playwright.expect(row).to_have_count(1)
            row.get_by_role("button").focus()  # by keyboard only
            page.keyboard.press("Enter")
            page.locator("dialog[open]").wait_for()
            page.locator("#ask-yes").focus()
            page.keyboard.press("Enter")
            playwright.expect(page.get_by_text("aborted: WRITE")).to_be_visible()
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        playwright.expect(row).to_have_count(0)
        assert page.wrong == []
        one.wait(task)
        assert (task.status, task.sense_key) == (2, ABORTED_COMMAND)


class Traffic:
    """What a page asks for from now on: how much at once, and how large the answers are."""

    def __init__(self, page: Any, what: str) -> None:
        self.most_at_once = 0
        self.sizes: list[int] = []  # one of each answer
        self._what = what
        self._asked: set[Any] = set()
        page.on("request", self._begun)
        page.on("response", self._answered)
        page.on("requestfinished", lambda request: self._asked.discard(request))
        page.on("requestfailed", lambda request: self._asked.discard(request))

    def _begun(self, request: Any) -> None:
        if self._what in request.url:
            self._asked.add(request)
            self.most_at_once = max(self.most_at_once, len(self._asked))

    def _answered(self, response: Any) -> None:
        if self._what in response.url:
            self.sizes.append(int(response.headers["content-length"]))


@pytest.mark.timeout(180)
def test_of_ten_thousand_commands_a_page_is_shown_and_the_one_is_found(
    browser: Any, tmp_path: Path
) -> None:
    with many_held(tmp_path, sessions=80, depth=125) as held:
        page = open_page(browser, held.server, "commands")
        traffic = Traffic(page, "/v1/tasks?")
        rows = page.locator(".task:not(.head)")
        note = page.locator("main [role=status]").first
        playwright.expect(note).to_have_text("10,000 commands, page 1")
        playwright.expect(rows).to_have_count(ROWS)
        playwright.expect(rows.first).to_contain_text("lba=0 ")
        if SCREENSHOTS:
            page.set_viewport_size({"width": 1180, "height": 560})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=f"{SCREENSHOTS}/dashboard-commands-{scheme}.png")

            page.set_viewport_size(WIDE)

        # Those behind, by keyboard: the next page, the one before, the first.
        page.get_by_label("Filter").focus()
        for _ in range(3):
            page.keyboard.press("Tab")
        for number in (2, 3):
            page.keyboard.press("Enter")
            playwright.expect(note).to_have_text(f"10,000 commands, page {number}")
            playwright.expect(rows.first).to_contain_text(f"lba={(number - 1) * ROWS} ")
        is_accessible(page)
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        playwright.expect(note).to_have_text("10,000 commands, page 2")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        playwright.expect(note).to_have_text("10,000 commands, page 1")
        # What is asked for anew each second is drawn in the rows that are there.
        rows.last.evaluate("it => { it.marked = true }")
        answers = len(traffic.sizes)
        while len(traffic.sizes) < answers + 2:
            page.wait_for_event("response", lambda it: "/v1/tasks?" in it.url)
        assert rows.last.evaluate("it => it.marked")

        page.get_by_label("Filter").press_sequentially("iqn.x:0079 lba=9999")
        playwright.expect(note).to_have_text("1 of 10,000 commands")
        playwright.expect(rows).to_have_count(1)
        rows.get_by_role("button").focus()
        page.keyboard.press("Enter")
        page.locator("dialog[open]").wait_for()
        page.locator("#ask-yes").focus()
        page.keyboard.press("Enter")
        playwright.expect(page.get_by_text("aborted: READ(10) lun=0")).to_be_visible()
        last, one = held.tasks[79][124], held.initiators[79]
        one.wait(last)
        assert (last.status, last.sense_key) == (2, ABORTED_COMMAND)
        playwright.expect(note).to_have_text("0 of 9,999 commands")

        # However many there are: so much of them in the page, and on the way to it.
        assert page.evaluate("document.querySelectorAll('*').length") < 100 + 10 * ROWS
        assert traffic.most_at_once == 1
        assert max(traffic.sizes) < ROWS * ROW_BYTES_MAX

        page.set_viewport_size(PHONE)  # all of a command, and Abort, without going sideways
        page.get_by_label("Filter").fill("")
        playwright.expect(rows).to_have_count(ROWS)
        for part in (rows.first.get_by_text("iqn.x:0000"), rows.first.get_by_role("button")):
            playwright.expect(part).to_be_in_viewport(ratio=1)
        page.emulate_media(color_scheme="light")
        if SCREENSHOTS:
            page.screenshot(path=f"{SCREENSHOTS}/dashboard-commands-phone.png")
        assert page.evaluate("document.querySelector('.rows').scrollLeft") == 0
        assert page.wrong == []

        # What they have taken.
        (node,) = told(held.server, "counters")["nodes"]
        (worker,) = node["workers"]
        assert (node["tasks"], worker["waiting"]) == (9_999, 9_999)
        assert 0 < worker["unanswered"] < 9_999  # the worker takes so many at once
        assert node["pool"]["used_bytes"] == 9_999 * SEGMENT_BYTES
        first, *_, last = told(held.server, "sessions")["sessions"]
        for session, commands in ((first, 125), (last, 124)):
            assert session["window"]["outstanding"] == commands <= session["window"]["credits"]
            assert session["window"]["held_bytes"] == commands * SEGMENT_BYTES


def told(server: LunmeshServer, what: str) -> Any:
    with urllib.request.urlopen(f"http://{server.admin}/v1/{what}") as answer:
        return json.load(answer)


def test_whose_numbers_they_are_is_said(browser: Any, tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["disk0=16M"]) as server:
        page = open_page(browser, server)
        playwright.expect(page.get_by_text("Numbers of node alone", exact=True)).to_be_visible()
        answer = told(server, "counters") | {"missing": [f"node{n}" for n in range(10)]}
        page.route("**/v1/counters", lambda route: route.fulfill(json=answer))
        without = re.compile("Numbers of node alone; without node0, .*node7 and 2 more")
        whose = page.get_by_text(without)
        playwright.expect(whose).to_be_visible()
        page.get_by_role("link", name="Buffers").click()
        playwright.expect(page.get_by_text("Not known here: node0, ")).to_be_visible()
        page.get_by_role("link", name="Commands").click()
        known = page.get_by_text("0 commands; not all of other nodes are known")
        playwright.expect(known).to_be_visible()


def test_tables_keep_focus_and_selection(browser: Any, tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["disk0=16M"]) as server:
        page = open_page(browser, server, "nodes")
        page.get_by_role("table").first.wait_for()
        answer = told(server, "nodes")

        def rename(name: str) -> None:
            answer["nodes"][0]["id"] = name

        page.route("**/v1/nodes", lambda route: route.fulfill(json=answer))
        page.get_by_text("Skip to content").focus()
        for _ in range(7):  # six pages, and the first table
            page.keyboard.press("Tab")
        rename("two")
        playwright.expect(page.get_by_text("two (here)")).to_be_visible()
        focused = "document.activeElement.getAttribute('aria-label')"
        assert page.evaluate(focused) == "Nodes"
        page.evaluate("getSelection().selectAllChildren(document.querySelector('td'))")
        rename("three")
        for _ in range(3):
            with page.expect_response("**/v1/nodes"):
                pass
        assert page.evaluate("getSelection().toString()") == "two (here)"
        page.evaluate("getSelection().empty()")
        playwright.expect(page.get_by_text("three (here)")).to_be_visible()


def test_what_a_peer_says_is_text(browser: Any, tmp_path: Path) -> None:
    task = {
        "id": "a/0/1/iqn.x:one,i,0x00",
        "node": "a",
        "lun": 0,
        "initiator": "iqn.x:<i>one</i>",
        "tag": 1,
        "state": "running",
        "age_seconds": 1.0,
        "request": "WRITE (10) tag=0x1 <b>text</b>",
    }
    answer = {"tasks": [task], "next": "", "total": 1, "known": 1, "others": True}
    with LunmeshServer(tmp_path, ["disk0=16M"]) as server:
        page = browser.new_page(viewport=WIDE)
        page.route("**/v1/tasks?*", lambda route: route.fulfill(json=answer))
        page.goto(f"http://127.0.0.1:{server.admin_port}/#commands")
        playwright.expect(page.get_by_text("tag=0x1 <b>text</b>")).to_be_visible()
        playwright.expect(page.get_by_text("iqn.x:<i>one</i>")).to_be_visible()
        assert page.locator(".task b, .task i").count() == 0
        page.get_by_role("button", name="Abort").click()
        playwright.expect(page.locator("#ask-text")).to_contain_text("<b>text</b>, of iqn.x:<i>")


def test_what_fails_leaves_the_others_alone(browser: Any, tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["disk0=16M"]) as server:
        page = browser.new_page(viewport=WIDE)
        refusal = {"title": "Internal Server Error", "status": 500, "detail": "not now"}
        unanswered = Traffic(page, "/v1/nodes")
        page.route("**/v1/volumes", lambda route: route.fulfill(status=500, json=refusal))
        page.route("**/v1/nodes", lambda route: None)  # no answer at all
        page.goto(f"http://127.0.0.1:{server.admin_port}/")
        stale = "stale: nodes (no answer yet), volumes (not now)"
        playwright.expect(page.locator("#state")).to_have_text(stale, timeout=15000)
        playwright.expect(page.locator("[data-tile=Sessions]")).to_have_text("0")
        playwright.expect(page.get_by_role("cell", name="disk0")).to_be_visible()
        for _ in range(2):
            page.wait_for_event("response", lambda it: "/v1/volumes" in it.url)
        assert unanswered.most_at_once == 1  # others are asked for, and that is not once more
        page.unroute("**/v1/nodes")
        page.unroute("**/v1/volumes")
        page.reload()
        is_live(page)


def test_a_token_is_asked_for(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("correct-horse-battery-staple")
    arguments = ["--admin-token-file", str(file)]
    with LunmeshServer(tmp_path / "s", ["disk0=16M"], arguments=arguments) as server:
        page = open_page(browser, server)
        page.locator("#ask-input").fill("correct-horse-battery-staple")
        page.keyboard.press("Enter")
        is_live(page)
        assert page.wrong == []
