"""The admin API: who is let in, what is written down, and what it says of itself."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_authority, make_certificate
from tests.support.lunmesh_server import LunmeshServer, ServerError
from tests.support.volume_command import VolumeCommand

TOKEN = "correct-horse-battery-staple"


def ask(
    server: LunmeshServer,
    path: str,
    *,
    method: str = "GET",
    body: object = None,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, Any]:
    """Status, and the JSON that is said."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=30)
        if context is None
        else http.client.HTTPSConnection(
            "127.0.0.1", server.admin_port, timeout=30, context=context
        )
    )
    try:
        data = None if body is None else json.dumps(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, data, kind | (headers or {}))
        response = connection.getresponse()
        said = response.read()
    finally:
        connection.close()
    told = "json" in (response.getheader("Content-Type") or "") and said
    return response.status, json.loads(said) if told else said


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    arguments = ["--admin-token-file", str(file)]
    with LunmeshServer(tmp_path / "s", ["disk0=16M"], arguments=arguments) as server:
        for headers in (
            {},
            bearer("wrong"),
            bearer(TOKEN + "x"),
            {"Authorization": f"Basic {TOKEN}"},
        ):
            for path in ("/v1/volumes", "/metrics", "/openapi.json", "/v1/report"):
                status, said = ask(server, path, headers=headers)
                assert (status, "token" in said["detail"]) == (401, True)
        body = {"name": "new", "size": "1M"}
        assert ask(server, "/v1/volumes", method="POST", body=body)[0] == 401
        assert ask(server, "/healthz") == (200, b"ok\n")  # for probes; it tells nothing
        status, made = ask(server, "/v1/volumes", method="POST", body=body, headers=bearer(TOKEN))
        assert (status, made["name"]) == (201, "new")
        # A page cannot know the token, so the name that it is reached by does not matter.
        named = bearer(TOKEN) | {"Host": "node.example:3280"}
        assert ask(server, "/v1/nodes", headers=named)[0] == 200

        volumes = VolumeCommand(server)
        assert "token is missing or wrong" in volumes.refused("list")
        monkeypatch.setenv("LUNMESH_ADMIN_TOKEN_FILE", str(file))
        assert {it["name"] for it in volumes.json("list")} == {"disk0", "new"}
        volumes.good("delete", "new", "--yes")

        report = ask(server, "/v1/report", headers=bearer(TOKEN))[1]
        assert TOKEN not in json.dumps(report)
    log = server.stderr()
    assert TOKEN not in log
    changes = [line for line in log.splitlines() if "admin call" in line]
    assert any("POST" in it and "201" in it and "new" in it and "127.0.0.1" in it for it in changes)
    assert any("DELETE" in it and "204" in it for it in changes)
    assert any("POST" in it and "401" in it for it in changes)
    assert not any("GET" in it and "200" in it for it in changes)


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, stranger = make_authority(tmp_path, "ours"), make_authority(tmp_path, "stranger")
    certificate, key = make_certificate(tmp_path, ours, "node")
    alice = make_certificate(tmp_path, ours, "alice")
    strange = make_certificate(tmp_path, stranger, "strange")
    arguments = ["--admin-cert", str(certificate), "--admin-key", str(key)]
    arguments += ["--admin-client-ca", str(ours), "--audit-log", str(tmp_path / "audit")]
    with LunmeshServer(tmp_path / "s", ["disk0=16M"], arguments=arguments) as server:
        for pair in (None, strange):
            context = ssl.create_default_context(cafile=str(ours))
            if pair is not None:
                context.load_cert_chain(*pair)
            with pytest.raises((OSError, http.client.HTTPException)):
                ask(server, "/v1/volumes", context=context)
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(server, "/v1/volumes")  # in the clear
        volumes = VolumeCommand(server)
        assert "no node answers" in volumes.refused("list")
        monkeypatch.setenv("LUNMESH_ADMIN_CA", str(ours))
        monkeypatch.setenv("LUNMESH_ADMIN_CERT", str(alice[0]))
        monkeypatch.setenv("LUNMESH_ADMIN_KEY", str(alice[1]))
        volumes.good("create", "new", "1M")
    (line,) = [line for line in server.stderr().splitlines() if "admin call" in line]
    assert "alice" in line
    assert "commonName=alice" in json.loads((tmp_path / "audit").read_text())["who"]


def test_the_audit_log_is_written_whatever_the_level_of_the_log(tmp_path: Path) -> None:
    token, file = tmp_path / "token", tmp_path / "audit"
    token.write_text(TOKEN + "\n")
    arguments = ["--admin-token-file", str(token), "--audit-log", str(file)]
    arguments += ["--log-level", "error"]
    body = {"name": "new", "size": "1M"}
    with LunmeshServer(tmp_path / "s", ["disk0=16M"], arguments=arguments) as server:
        ask(server, "/v1/volumes", method="POST", body=body)
        ask(server, "/v1/volumes", method="POST", body=body, headers=bearer(TOKEN))
        ask(server, "/v1/volumes", headers=bearer(TOKEN))  # changes nothing: no line
        file.rename(tmp_path / "audit.1")
        ask(server, "/v1/volumes/none", method="DELETE", headers=bearer(TOKEN))
    assert "admin call" not in server.stderr()
    text = (tmp_path / "audit.1").read_text() + file.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(it["who"], it["method"], it["path"], it["status"]) for it in lines] == [
        ("nobody", "POST", "/v1/volumes", 401),
        ("token", "POST", "/v1/volumes", 201),
        ("token", "DELETE", "/v1/volumes/none", 404),
    ]
    assert all(it["address"] == "127.0.0.1" and it["seconds"] >= 0 for it in lines)
    assert json.loads(lines[1]["body"]) == body
    assert TOKEN not in text
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--admin", "0.0.0.0:0"], "give admin-token-file or admin-client-ca"),
        (["--admin-cert", "x.pem"], "give admin-cert and admin-key, or neither"),
        (["--admin-client-ca", "x.pem"], "needs admin-cert and admin-key"),
        (["--audit-log", "/dev/null/audit"], "/dev/null/audit"),
        (["--audit-log", "audit", "--admin", "off"], "the admin API is off"),
        (["--admin-token-file", "/dev/null"], "must have 16 to 4096 characters"),
    ],
)
def test_refused_at_start(tmp_path: Path, arguments: list[str], said: str) -> None:
    server = LunmeshServer(tmp_path, ["disk0=16M"], arguments=arguments)
    with pytest.raises(ServerError, match=said):
        server.start()


def test_the_description_is_of_this_api(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["disk0=16M"]) as server:
        told = ask(server, "/openapi.json")[1]
        assert told["openapi"].startswith("3.1")
        for path, operations in told["paths"].items():
            for method, operation in operations.items():
                place = re.sub(r"{\w+}", "nothing", path)
                if method == "get":
                    status, said = ask(server, place)
                    assert status == (404 if "nothing" in place else 200)
                elif "requestBody" in operation:
                    bodies: list[Any] = [[], {"no such key": 1}, "text", 7]
                    for body in bodies:
                        status, said = ask(server, place, method=method.upper(), body=body)
                        assert 400 <= status < 500, (path, body, said)
                        assert list(said) == ["title", "status", "detail"]
                        assert said["status"] == status
        assert ask(server, "/v1/nodes", headers={"Host": "evil.example"})[0] == 403
