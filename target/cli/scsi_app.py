"""The flags of ``lunmesh scsi``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from target.cli.errors import CliError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from target.cli.scsi import Executor

scsi_app = typer.Typer(help="Send SCSI commands to a local volume that no server is using.")
LBA_MAX = 2**64 - 1
BLOCKS_MAX = 2**63

VolumeFlag = Annotated[
    str, typer.Option("--volume", metavar="NAME", help="A volume of the data directory.")
]
DataDirFlag = Annotated[
    str, typer.Option("--data-dir", metavar="DIR", help="Where volumes are kept.")
]
ReadonlyFlag = Annotated[bool, typer.Option("--readonly", help="Open the volume for reading only.")]


@scsi_app.callback()
def scsi(
    context: typer.Context,
    volume: VolumeFlag = "disk0",
    data_dir: DataDirFlag = "lunmesh-data",
    readonly: ReadonlyFlag = False,
) -> None:
    context.obj = (data_dir, volume, readonly)


def _unit(context: typer.Context) -> AbstractContextManager[Executor]:
    from target.cli.local import open_unit

    data_dir, volume, readonly = context.obj
    return open_unit(data_dir, volume, readonly)


@scsi_app.command()
def inquiry(
    context: typer.Context,
    page: Annotated[
        str | None,
        typer.Option(metavar="PAGE", help="A vital product data page, such as 0x83."),
    ] = None,
) -> None:
    """Ask what the volume is."""
    from target.cli import scsi as commands

    number = None if page is None else commands.parse_number("--page", page, 0, 0xFF)
    with _unit(context) as unit:
        commands.inquiry(unit, number)


@scsi_app.command()
def readcap(context: typer.Context) -> None:
    """Ask for the volume's size."""
    from target.cli import scsi as commands

    with _unit(context) as unit:
        commands.readcap(unit)


@scsi_app.command()
def read(
    context: typer.Context,
    lba: Annotated[str, typer.Argument(metavar="LBA", help="The first block.", show_default=False)],
    count: Annotated[
        str, typer.Argument(metavar="COUNT", help="How many blocks.", show_default=False)
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write them to FILE, or to - (stdout)."
        ),
    ] = None,
) -> None:
    """Read blocks; without -o as a hex dump."""
    from target.cli import scsi as commands

    first = commands.parse_number("LBA", lba, 0, LBA_MAX)
    number = commands.parse_number("COUNT", count, 1, BLOCKS_MAX)
    with _unit(context) as unit:
        commands.read(unit, first, number, output)


@scsi_app.command()
def write(
    context: typer.Context,
    lba: Annotated[str, typer.Argument(metavar="LBA", help="The first block.", show_default=False)],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="What to write; - is stdin.", show_default=False)
    ],
) -> None:
    """Write a file, which must be a whole number of blocks."""
    from target.cli import scsi as commands

    first = commands.parse_number("LBA", lba, 0, LBA_MAX)
    with _unit(context) as unit:
        commands.write(unit, first, file)


@scsi_app.command()
def raw(
    context: typer.Context,
    cdb: Annotated[
        str,
        typer.Argument(
            metavar="HEXCDB", help="The command's bytes: 120000002400", show_default=False
        ),
    ],
    in_bytes: Annotated[
        str, typer.Option("--in", metavar="N", help="Take up to N bytes of answer.")
    ] = "0",
    out_file: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Send FILE along; - is stdin.")
    ] = None,
) -> None:
    """Send any command."""
    from target.cli import scsi as commands

    parsed = commands.parse_cdb(cdb)
    number = commands.parse_number("--in", in_bytes, 0, commands.RAW_BYTES_MAX)
    if number and out_file is not None:
        raise CliError("give either --in or --out: a command moves data one way", 2)
    with _unit(context) as unit:
        commands.raw(unit, parsed, number, out_file)
