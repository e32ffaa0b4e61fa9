"""`shardkv`: the command line. Subcommands are imported when they are used, so that each starts fast."""

from __future__ import annotations

import sys
from importlib import import_module

import click

_COMMANDS = {
    "demo": ("tools.cli.demo", "demo", "Watch the controller group lose a peer, go on, and get it back."),
    "up": ("tools.cli.cluster", "up", "Start a cluster on this machine, or what of it is dead."),
    "down": ("tools.cli.cluster", "down", "End every peer of the cluster."),
    "status": ("tools.cli.cluster", "status", "How every peer is."),
    "peer": ("tools.cli.cluster", "peer", "Kill, stop, start, pause or resume one peer."),
    "group": ("tools.cli.cluster", "group", "Add or remove a shard group."),
    "init": ("tools.cli.machines", "init", "Write one settings file per peer, for several machines."),
    "serve": ("tools.cli.machines", "serve", "Run one peer."),
    "get": ("tools.cli.data", "get", "The value and version of a key."),
    "put": ("tools.cli.data", "put", "Store a value."),
    "delete": ("tools.cli.data", "delete", "Remove a key."),
    "scan": ("tools.cli.data", "scan", "Keys in order."),
    "ctrl": ("tools.cli.control", "ctrl", "The shard configuration: query, change, history."),
    "inspect": ("tools.inspect.commands", "inspect", "Read what is on a peer's disk."),
}


class LazyGroup(click.Group):
    """A group whose commands are modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one."""
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(module), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shardkv")
def cli() -> None:
    """A sharded, replicated, durable key/value service, and the tools to crash it and look inside.

    \b
    Example: shardkv up --detach && shardkv put name value && shardkv get name
    """


def main() -> None:
    """The entry point."""
    if not __debug__:
        click.echo("shardkv: python -O takes away the assertions that guard the data: run without -O", err=True)
        sys.exit(2)
    cli()


if __name__ == "__main__":
    main()
