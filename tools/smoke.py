"""The smoke test of `make check`: a real cluster, used through the command line only.

`python -m tools.smoke` starts a cluster of real processes in a temporary directory, writes and
reads, stops it, starts it again from its own disks, reads again, stops it, and lets
`shardkv inspect verify` judge every peer's directory. The first command that does not do what it
should ends the run with exit code 1; the cluster is stopped in every case.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

# Each command gets this long; a healthy one takes about a second.
COMMAND_LIMIT_S = 60.0
KEYS = 12


class SmokeError(Exception):
    """A command did not do what it should; the message says which and how."""


class Cluster:
    """The `shardkv` command, bound to one data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        # The command that was installed beside the running interpreter, not another one on PATH.
        self.command = str(Path(sys.executable).with_name("shardkv"))

    def run(self, *arguments: str) -> str:
        """Run one command and return its output; raise SmokeError if it fails or hangs."""
        shown = f"shardkv {' '.join(arguments)}"
        try:
            done = subprocess.run(
                [self.command, *arguments],
                env={**os.environ, "SHARDKV_DIR": str(self.data)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_LIMIT_S,
            )
        except subprocess.TimeoutExpired as expired:
            raise SmokeError(f"{shown}: no end after {COMMAND_LIMIT_S:.0f} s") from expired
        if done.returncode:
            raise SmokeError(f"{shown}: exit code {done.returncode}\n{done.stdout}")
        print(f"smoke: {shown}")
        return done.stdout

    def expect(self, wanted: str, *arguments: str) -> None:
        """Run one command and raise SmokeError unless its output holds the wanted text."""
        output = self.run(*arguments)
        if wanted not in output:
            raise SmokeError(f"shardkv {' '.join(arguments)}: no {wanted!r} in {output!r}")

    def peer_directories(self) -> list[Path]:
        """Return the data directory of every peer, in order of name."""
        return sorted(path for path in self.data.glob("server-*-*") if path.is_dir())


def smoke(cluster: Cluster) -> None:
    """Take the cluster through one life; raise SmokeError at the first thing that is wrong."""
    values = {f"smoke-key-{i}": f"smoke-value-{i}" for i in range(KEYS)}
    try:
        cluster.run("up", "--detach")
        for key, value in values.items():
            cluster.run("put", key, value)
        for key, value in values.items():
            cluster.expect(value, "get", key)
        cluster.expect('"num"', "ctrl", "query", "--json")
        cluster.run("down")
        cluster.run("up", "--detach")
        for key, value in values.items():
            cluster.expect(value, "get", key)
    except SmokeError:
        with suppress(SmokeError):  # what went wrong first is what has to be told
            cluster.run("down")
        raise
    cluster.run("down")
    peers = cluster.peer_directories()
    if not peers:
        raise SmokeError(f"no server-<gid>-<i> directory in {cluster.data}")
    for peer in peers:
        cluster.run("inspect", "verify", str(peer))
    print(f"smoke: passed, {len(peers)} peers verified")


def main() -> int:
    """Run the smoke test in a temporary directory; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="shardkv-smoke-") as folder:
        try:
            smoke(Cluster(Path(folder) / "data"))
        except SmokeError as error:
            print(f"smoke: FAILED: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
