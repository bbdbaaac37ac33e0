"""The dashboard in Debian's Chromium: live numbers, abort, access, the page itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import LunmeshServer, free_port
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.tools import require_tool

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

PAGES = ("overview", "commands", "volumes", "sessions", "nodes")
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
ABORTED_COMMAND = 0x0B
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


def test_numbers_move_and_every_page_is_sound(browser: Any, tmp_path: Path) -> None:
    require_tool("iscsi-perf")
    with (
        LunmeshWorker(tmp_path / "v", listen=f"127.0.0.1:{free_port()}") as one,
        LunmeshWorker(tmp_path / "w", listen=f"127.0.0.1:{free_port()}") as other,
        LunmeshServer(
            tmp_path / "s",
            ["disk0=64M", "idle=16M"],
            arguments=["--worker", one.address, "--worker", other.address],
        ) as server,
    ):
        url = f"iscsi://{server.portal}/{server.iqn}/0"
        command = ["iscsi-perf", "-b", "8", "-m", "8", "-r", "-t", "90", url]
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            page = open_page(browser, server)
            tile = page.locator("[data-tile=IOPS]")
            page.wait_for_function(
                "() => parseFloat(document.querySelector('[data-tile=IOPS]')?.textContent) > 0"
            )
            before = tile.text_content()
            page.wait_for_function(
                "before => document.querySelector('[data-tile=IOPS]').textContent !== before",
                arg=before,
            )
            page.wait_for_function("() => document.querySelector('.chart path').getAttribute('d')")
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
                    if name in ("volumes", "sessions", "nodes"):
                        page.locator("main table").first.wait_for()
                    if name == "volumes":  # 64 MiB and 16 MiB, in chunks of 4 MiB
                        playwright.expect(page.locator(".cells i")).to_have_count(16 + 4)
                    if SCREENSHOTS:
                        page.wait_for_timeout(6000 if name == "overview" else 300)
                        page.screenshot(path=f"{SCREENSHOTS}/dashboard-{name}-{kind}.png")
                    found = axe.Axe().run(page).response["violations"]
                    assert [(name, it["id"], it["nodes"][0]["html"]) for it in found] == []
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
            row = page.locator(".rows div[role=rowgroup] .task:not(.head)")
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


def test_ten_thousand_commands_are_few_rows_in_the_page(browser: Any, tmp_path: Path) -> None:
    tasks = [
        {
            "id": f"a/0/{n:x}/iqn.x:one,i,0x00",
            "node": "a",
            "lun": n % 8,
            "initiator": "iqn.x:one",
            "isid": "00",
            "tag": n,
            "state": "running",
            "age_seconds": n / 100,
            "request": f"WRITE (10) tag=0x{n:x} <b>text</b>",
        }
        for n in range(10_000)
    ]
    with LunmeshServer(tmp_path, ["disk0=16M"]) as server:
        page = browser.new_page(viewport=WIDE)
        answer = {"tasks": tasks, "more": False, "others": True}
        page.route("**/v1/tasks", lambda route: route.fulfill(json=answer))
        page.goto(f"http://127.0.0.1:{server.admin_port}/#commands")
        playwright.expect(page.get_by_text("10000 of 10000")).to_be_visible()
        assert page.locator(".task").count() < 80
        page.locator(".rows").evaluate("it => it.scrollTo(0, it.scrollHeight)")
        playwright.expect(page.get_by_text("tag=0x270f <b>text</b>")).to_be_visible()
        assert page.locator(".task").count() < 80
        assert page.locator(".task b").count() == 0  # what a peer said is text


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
