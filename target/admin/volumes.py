"""/v1/volumes: the volumes of the node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from target.admin.schema import (
    PlacementInfo,
    PlacementList,
    VolumeCreate,
    VolumeList,
    VolumeMap,
    VolumeMigrate,
    VolumeResize,
)
from target.admin.server import answer, said
from target.block.volume import Volume
from target.config import ServeConfig, parse_size
from target.config.options import VolumeTable
from target.config.values import check_volume, parse_worker
from target.volume_changes import VolumeChanges
from target.volumes import Volumes

CELLS_MAX: Final = 512  # of a placement map


def volume_routes(
    volumes: Volumes, changes: VolumeChanges, config: ServeConfig
) -> web.RouteTableDef:
    """What can be asked of ``volumes``, and what can be changed."""
    routes = web.RouteTableDef()

    @routes.get("/v1/volumes")
    async def every(request: web.Request) -> web.Response:
        return answer(VolumeList(volumes=await volumes.all()))

    @routes.post("/v1/volumes")
    async def create(request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=VolumeCreate)
        table = VolumeTable(
            name=asked.name,
            size=asked.size,
            block=asked.block,
            chunk=asked.chunk,
            readonly=asked.readonly,
            target=asked.target,
        )
        wanted = check_volume(table, Path())
        if asked.workers is None:
            workers = [str(address) for address in config.workers]
        else:
            workers = _addresses(asked.workers)
        made = await changes.create(wanted, workers=workers, lun=asked.lun)
        return answer(made, status=201)

    @routes.get("/v1/placement")
    async def placement(request: web.Request) -> web.Response:
        workers = {it.name: [w.address for w in it.workers] for it in await volumes.all()}
        found = []
        for volume in volumes.by_address.values():
            if len(workers.get(volume.name, ())) == len(volume.layout.stores):
                found.append(_placement(volume, workers[volume.name]))
                await asyncio.sleep(0)  # commands go on
        return answer(PlacementList(placement=found))

    @routes.get("/v1/volumes/{name}")
    async def one(request: web.Request) -> web.Response:
        return answer(volumes.one(request.match_info["name"]))

    @routes.patch("/v1/volumes/{name}")
    async def resize(request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=VolumeResize)
        size = parse_size(asked.size)
        return answer(await changes.resize(request.match_info["name"], size))

    @routes.put("/v1/volumes/{name}/lun")
    async def remap(request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=VolumeMap)
        name = request.match_info["name"]
        return answer(await changes.remap(name, asked.target, asked.lun, force=asked.force))

    @routes.post("/v1/volumes/{name}/migration")
    async def migrate(request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=VolumeMigrate)
        workers = _addresses(asked.workers)
        if not workers:
            raise ValueError("at least one worker is needed")
        return answer(await changes.migrate(request.match_info["name"], workers), status=202)

    @routes.delete("/v1/volumes/{name}")
    async def delete(request: web.Request) -> web.Response:
        await changes.delete(request.match_info["name"], force=said(request, "force"))
        return web.Response(status=204)

    return routes


def _placement(volume: Volume, workers: list[str]) -> PlacementInfo:
    """Of at most ``CELLS_MAX`` chunks, however large the volume is."""
    total = -(-volume.size // volume.chunk_bytes)
    cells = min(total, CELLS_MAX)
    place = volume.layout.place
    return PlacementInfo(
        volume=volume.name,
        workers=workers,
        chunks_total=total,
        chunks=[place(cell * total // cells) for cell in range(cells)],
    )


def _addresses(texts: list[str]) -> list[str]:
    """Workers in the form that the catalog has.  Raises ValueError."""
    workers = [str(parse_worker(text)) for text in texts]
    if len(set(workers)) != len(workers):
        raise ValueError("a worker is given twice")
    return workers
