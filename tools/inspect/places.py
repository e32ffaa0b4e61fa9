"""Which peers a command over several of them looks at: directories, addresses of running ones, or a whole running cluster."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tools.inspect.structure import peer_directories

ANSWER_S = 5.0
"""How long the controllers may take to say who is in the cluster."""


def places(command: Callable[..., None]) -> Callable[..., None]:
    """DIR... and `--connect`; `command` gets the peers' places as `directories`, a list."""

    @click.argument("directories", nargs=-1, type=click.Path(path_type=Path), metavar="DIR...")
    @click.option(
        "--connect",
        metavar="HOST:PORT,...",
        help="All peers of the running cluster with these controllers, over the network.",
    )
    @wraps(command)
    def with_places(directories: tuple[Path, ...], connect: str | None, **rest: Any) -> None:
        if not directories and connect is None:
            raise click.UsageError("Missing argument 'DIR...': directories or addresses of peers, or --connect")
        found = peer_directories(directories)
        command(directories=[*found, *(_peers(connect) if connect is not None else ())], **rest)

    return with_places


def _peers(connect: str) -> list[Path]:
    """The addresses of all peers of the cluster, by group. Ends the program with one line if nobody answers."""
    from tools.admin import control, network
    from tools.cli.common import run, seeds_of

    cluster, controllers = seeds_of(Path(), connect)

    async def ask() -> list[Path]:
        async with network(cluster) as rpc:
            routing = await control(rpc, controllers).routing(deadline_s=ANSWER_S)
        groups = [addresses for gid, addresses in sorted(routing.addresses.items()) if gid]
        return [Path(address) for addresses in (controllers, *groups) for address in addresses]

    return run(ask)
