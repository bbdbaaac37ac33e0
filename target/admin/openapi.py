"""/openapi.json: the API described (OpenAPI 3.1), from its routes and the types that they take.

A route that is not in ``OPERATIONS`` stops the node's start (KeyError), so that a test finds it.
aiohttp stays the framework: its routes and msgspec's schemas are all that a description needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from target import __version__
from target.admin.schema import (
    PROBLEM_JSON,
    AccessEntries,
    MutualChap,
    Pending,
    PlacementList,
    Problem,
    Report,
    TargetInfos,
    TaskAbort,
    TaskAborted,
    UserList,
    VolumeCreate,
    VolumeList,
    VolumeMap,
    VolumeMigrate,
    VolumeResize,
)
from target.admin.server import answer
from target.chap_users import UserInfo, UserSecret
from target.node_counters import CounterList
from target.scsi.access_list import AccessEntry
from target.sight_info import (
    NodeInfo,
    NodeList,
    ReservationList,
    SessionInfo,
    SessionList,
    TaskList,
)
from target.target_info import TargetInfo
from target.target_records import TargetRecord
from target.telemetry.stats import NodeStats
from target.volume_info import VolumeInfo

REF: Final = "#/components/schemas/{name}"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route does; ``tells`` None: nothing, or plain text where ``text`` is set.

    A change of the catalog may be ``pending``: not on every node yet.
    """

    summary: str
    tells: Any = None
    takes: Any = None
    status: int = 200
    query: tuple[str, ...] = ()
    text: bool = False
    pending: bool = False


OPERATIONS: Final = {
    ("GET", "/v1/volumes"): Operation("The volumes of the node", VolumeList),
    ("POST", "/v1/volumes"): Operation(
        "Make a volume", VolumeInfo, VolumeCreate, 201, pending=True
    ),
    ("GET", "/v1/placement"): Operation("Where the chunks of volumes are", PlacementList),
    ("GET", "/v1/volumes/{name}"): Operation("A volume", VolumeInfo),
    ("PATCH", "/v1/volumes/{name}"): Operation(
        "Grow a volume", VolumeInfo, VolumeResize, pending=True
    ),
    ("DELETE", "/v1/volumes/{name}"): Operation(
        "Delete a volume with its data", status=204, query=("force",), pending=True
    ),
    ("PUT", "/v1/volumes/{name}/lun"): Operation(
        "Show a volume at another LUN, perhaps of another target",
        VolumeInfo,
        VolumeMap,
        pending=True,
    ),
    ("POST", "/v1/volumes/{name}/migration"): Operation(
        "Move a volume to other workers", VolumeInfo, VolumeMigrate, 202
    ),
    ("GET", "/v1/targets"): Operation("The targets of the node", TargetInfos),
    ("POST", "/v1/targets"): Operation(
        "Serve another target", TargetInfo, TargetRecord, 201, pending=True
    ),
    ("PATCH", "/v1/targets"): Operation(
        "Have other portals lead to a target", TargetInfo, TargetRecord, pending=True
    ),
    ("DELETE", "/v1/targets"): Operation(
        "Serve one no more", status=204, query=("name",), pending=True
    ),
    ("GET", "/v1/acls"): Operation("Who may use which volumes", AccessEntries),
    ("PUT", "/v1/acls"): Operation(
        "Add or replace an entry", AccessEntry, AccessEntry, pending=True
    ),
    ("DELETE", "/v1/acls"): Operation(
        "Remove an entry",
        status=204,
        query=("initiator", "user", "target", "everybody"),
        pending=True,
    ),
    ("GET", "/v1/users"): Operation("The CHAP users, without secrets", UserList),
    ("POST", "/v1/users"): Operation("Add a CHAP user", UserInfo, UserSecret, 201, pending=True),
    ("PATCH", "/v1/users"): Operation(
        "Give a CHAP user another secret", UserInfo, UserSecret, pending=True
    ),
    ("DELETE", "/v1/users"): Operation(
        "Remove a CHAP user", status=204, query=("user", "everybody"), pending=True
    ),
    ("GET", "/v1/mutual-chap"): Operation("Who the node is to initiators", MutualChap),
    ("PUT", "/v1/mutual-chap"): Operation(
        "Be that to initiators, on all nodes", UserInfo, UserSecret, pending=True
    ),
    ("DELETE", "/v1/mutual-chap"): Operation(
        "Prove nothing to initiators", status=204, pending=True
    ),
    ("GET", "/v1/nodes"): Operation("The nodes of the cluster", NodeList),
    ("GET", "/v1/nodes/{name}"): Operation("A node", NodeInfo),
    ("GET", "/v1/sessions"): Operation("The sessions, of all nodes", SessionList),
    ("GET", "/v1/sessions/{node}/{tsih}"): Operation("A session", SessionInfo),
    ("DELETE", "/v1/sessions/{node}/{tsih}"): Operation(
        "Have a session logged out, or dropped, on whichever node it is", status=204
    ),
    ("GET", "/v1/reservations"): Operation("Who has reserved what", ReservationList),
    ("GET", "/v1/tasks"): Operation(
        "Commands that have not ended, on all nodes, the oldest first",
        TaskList,
        query=("filter", "cursor", "offset", "limit"),
    ),
    ("POST", "/v1/tasks/abort"): Operation("End a command", TaskAborted, TaskAbort),
    ("GET", "/v1/stats"): Operation("The counters of this node", NodeStats),
    ("GET", "/v1/counters"): Operation(
        "The counters, pools and ways to workers of all nodes", CounterList
    ),
    ("GET", "/v1/report"): Operation("What a report of a problem needs", Report),
    ("GET", "/metrics"): Operation("For Prometheus", text=True),
    ("GET", "/healthz"): Operation("Whether the process answers", text=True),
    ("GET", "/readyz"): Operation("Whether it serves", text=True),
}


def document(routes: Iterable[web.AbstractRouteDef]) -> dict[str, Any]:
    """The description of ``routes``.  Raises KeyError."""
    told = [r for r in routes if isinstance(r, web.RouteDef)]
    operations = {(r.method, r.path): OPERATIONS[r.method, r.path] for r in told}
    types = [t for it in operations.values() for t in (it.takes, it.tells) if t is not None]
    types += [Pending, Problem]
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    found = dict(zip(map(str, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), it in operations.items():
        paths.setdefault(path, {})[method.lower()] = _operation(path, method, it, found)
    return {
        "openapi": "3.1.0",
        "info": {"title": "lunmesh", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],  # as the node is configured
    }


def _operation(path: str, method: str, it: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", path)
    parameters = [_parameter(name, "path", required=True) for name in names]
    parameters += [_parameter(name, "query", required=False) for name in it.query]
    content = {JSON: {"schema": schemas[str(it.tells)]}} if it.tells is not None else {}
    if it.text:
        content = {"text/plain": {"schema": {"type": "string"}}}
    good: dict[str, Any] = {"description": it.summary}
    why = {PROBLEM_JSON: {"schema": schemas[str(Problem)]}}
    bad = {"description": "Why not", "content": why}
    if content:
        good["content"] = content
    told: dict[str, Any] = {
        "operationId": "-".join([method.lower(), *re.findall(r"\w+", path)]),
        "summary": it.summary,
        "parameters": parameters,
        "responses": {str(it.status): good, "4XX": bad, "5XX": bad},
    }
    if it.pending:
        late = {JSON: {"schema": schemas[str(Pending)]}}
        told["responses"]["202"] = {"description": "Not on every node yet", "content": late}
    if it.takes is not None:
        body = {JSON: {"schema": schemas[str(it.takes)]}}
        told["requestBody"] = {"required": True, "content": body}
    return told


def _parameter(name: str, place: str, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": {"type": "string"}}


def description_routes(described: Iterable[web.AbstractRouteDef]) -> web.RouteTableDef:
    """The route of the description itself, which is made once."""
    made = document(described)
    routes = web.RouteTableDef()

    @routes.get("/openapi.json")
    async def openapi(request: web.Request) -> web.Response:
        return answer(made)

    return routes
