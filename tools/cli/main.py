"""The entry point of `shardkv`."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from tools.cli.common import INTERRUPTED, USAGE, warn

COMMANDS = {
    "demo": ("demo:demo", "Watch a controller group lose a peer, go on, and get it back."),
    "up": ("cluster:up", "Start a cluster on this machine, or the dead peers of one."),
    "down": ("cluster:down", "End all peers of the cluster."),
    "status": ("cluster:status", "How the peers are."),
    "top": ("top:top", "The live cluster as a dashboard."),
    "peer": ("cluster:peer", "kill, stop, start, pause or resume one peer."),
    "group": ("cluster:group", "Add or remove a shard group."),
    "get": ("data:get", "Read a key."),
    "put": ("data:put", "Write a key."),
    "delete": ("data:delete", "Delete a key."),
    "scan": ("data:scan", "List keys in order."),
    "ctrl": ("ctrl:ctrl", "Ask or change the configuration: who owns which shard."),
    "inspect": ("tools.inspect.commands:inspect", "What is on a peer's disk, read-only."),
    "story": ("story:story", "Make an accident happen to a cluster, to learn `inspect` with."),
    "bench": ("bench:bench", "How fast it is on this machine: gets, puts, recovery, scale."),
    "scenarios": ("scenarios:scenarios", "The labs' tests by name, in virtual time."),
    "check": ("check:check", "Is a history of gets and puts linearizable?"),
    "simulate": ("simulate:simulate", "Clusters with faults in virtual time, from seeds; everything is checked."),
    "mutants": ("mutants:mutants", "Plant known bugs in our own code, and see what finds them."),
    "powercut": ("powercut:powercut", "Recover every state that a power cut may leave, from a recording."),
    "chaos": ("chaos:chaos", "Torment a cluster of real processes under load, and judge it."),
    "init": ("serve:init", "Write the files of a cluster whose peers run on several machines."),
    "serve": ("serve:serve", "Run one peer."),
    "failpoints": ("failpoints:failpoints", "Kill, fail or delay a peer at a named place, for tests."),
}


class Commands(click.Group):
    """A group whose commands are loaded when they are used; their short help is here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of a tour."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        home, _, name = COMMANDS[cmd_name][0].partition(":")
        module = import_module(home if "." in home else f"tools.cli.{home}")
        command = getattr(module, name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without loading the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shardkv", message="%(version)s")
def cli() -> None:
    """A sharded, replicated, durable key/value service.

    \b
    Example:
      shardkv up --detach
      shardkv put greeting hello
      shardkv get greeting
      shardkv down

    Exit codes: 0 done, 1 the outcome is a no, 2 wrong call or file, 3 cannot be opened, reached or done in time,
    4 a write that may have happened. SHARDKV_DIR names the cluster's directory for all commands.
    """


def main() -> None:
    """Run the command that the process was called with, and end the process."""
    if not __debug__:
        warn("python -O takes away the assertions that guard the data: run without -O")
        sys.exit(USAGE)
    try:
        code = cli.main(standalone_mode=False)
        # `--help` and the like return their exit code, commands return nothing.
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "shardkv"
        warn(f"{error.format_message()} (see `{where} --help`)")
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output went away. Nothing more can be said there, also not at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
