"""One peer in this process: `shardkv serve FILE`, or `python -m tools.serve FILE` without the command line library.

What happens goes to standard output, one event per line: short words, or with `--json` objects with the keys `event`,
`time` (unix, ms), `monotonic` (seconds, the machine's) and those of the event:

    imported    the program is loaded and its file read; nothing of the data has been opened
    recovered   boot, term, last, applied, config, state_hash: what the disk says, before any socket is opened
    listening   address
    leader      term           follower   term, leader
    trouble     text: something is wrong, and the peer goes on
    error       text, exit: why it ends with that exit code; also the one line on standard error
    stopped     it ended as asked

SIGTERM and SIGINT hand over leadership and end the peer; a second one does not wait for the handing over.

Exit codes: 0 ended as asked; 1 a defect (with a traceback); 2 the file or the call is wrong; 3 the data cannot be used:
missing, corrupt, another cluster's or peer's, another format, a failed commit; 4 the address cannot be listened on.

What this module imports is part of how fast a peer is back after a crash: no command line library, nothing for show.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.allocator import keep_freed_memory
from tools.settings import PeerSettings, SettingsError, address_text, is_loopback, read_settings

if TYPE_CHECKING:
    import trio

    from shardkv.host import PeerSpec

OK, DEFECT, USAGE, STORAGE, ADDRESS = range(5)

# Two threads of a peer matter, the loop and the disk writer. By default the one that has the interpreter keeps it for
# 5 ms while the other one's commit is done: as long as several commits take.
SWITCH_INTERVAL_S = 0.0002

VIEWER = (sys.executable, "-P", "-m", "tools.inspect.viewer")
"""What shows a peer's disk to callers: in a process of its own, for it may die of what it reads."""
KEEPER = (sys.executable, "-P", "-m", "tools.inspect.child", "export")
"""What makes a base of a peer's directory, before its log is purged."""

_ADDRESS_ERRORS = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM})


Run = Callable[..., Awaitable[None]]
Host = Callable[[PeerSettings], "tuple[Run, Callable[[PeerSpec], None]]"]
"""What runs a kind of peer, and what makes its directory."""


class Report:
    """Writes the events of a peer. What cannot be written is lost: a full log disk must not kill the peer."""

    def __init__(self, as_json: bool, name: str = "") -> None:
        self.as_json = as_json
        self.name = name

    def __call__(self, event: dict[str, Any]) -> None:
        """Write one event."""
        now = time.time()
        if self.as_json:
            stamped = {"time": int(now * 1000), "monotonic": time.monotonic(), "name": self.name, **event}
            line = json.dumps(stamped, default=_plain, separators=(",", ":"))
        else:
            line = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now * 1000) % 1000:03} {event_text(event)}"
        with suppress(OSError):
            print(line, flush=True)

    def fail(self, text: str, code: int) -> int:
        """Tell why the peer ends; return the exit code."""
        line = " ".join(text.split())
        if self.as_json:
            self({"event": "error", "text": line, "exit": code})
        with suppress(OSError):
            print(f"shardkv serve: {line}", file=sys.stderr, flush=True)
        return code


def event_text(event: dict[str, Any]) -> str:
    """An event in words."""
    rest = {key: value for key, value in event.items() if key not in ("event", "text")}
    told = [f"{key} {_short(value)}" for key, value in rest.items() if value is not None]
    words = [str(event.get("event", "?")), *([str(event["text"])] if "text" in event else []), *told]
    return words[0] + (": " + ", ".join(words[1:]) if len(words) > 1 else "")


def _short(value: Any) -> str:
    match value:
        case [int() as term, int() as index]:
            return f"{term}:{index}"
        case dict() | list():
            return json.dumps(value, default=_plain)
    return str(value)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def serve(
    file: Path, *, as_json: bool = False, new: bool = False, failpoints: str | None = None, host: Host | None = None
) -> int:
    """Run the peer that `file` describes until it is told to end; return the exit code. With `new`, make its data
    directory first, which must not exist: the one moment in a peer's life in which it may start from nothing.

    With `failpoints`, some with commas between (or "" for none yet), they may be armed, here and by a call. The environment's
    SHARDKV_FAILPOINTS stands in for None. `host` runs another kind of peer than ours.
    """
    report = Report(as_json, file.stem)
    if not __debug__:
        return report.fail("python -O takes away the assertions that guard the data: run without -O", USAGE)
    try:
        settings = read_settings(file)
    except SettingsError as error:
        return report.fail(str(error), USAGE)
    report.name = settings.name
    if failpoints is None:
        failpoints = os.environ.get("SHARDKV_FAILPOINTS")
    if failpoints is not None and not is_loopback(settings.listen[0]):
        return report.fail(f"{settings.name}: failpoints need a loopback address to listen on", USAGE)
    return _serve(settings, report, new, failpoints, host or _host)


def _serve(settings: PeerSettings, report: Report, new: bool, failpoints: str | None, host: Host) -> int:
    import trio

    run, create = host(settings)
    from store.engine import StoreError

    spec = replace(settings.spec(), failpoints=failpoints is not None, viewer=VIEWER, keeper=KEEPER)
    if failpoints is not None and (wrong := _arm(failpoints)):
        return report.fail(f"{settings.name}: --failpoints: {wrong}", USAGE)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()
    # All that the imports made stays for ever: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    report({"event": "imported"})
    code = OK
    try:
        if new:
            spec.directory.parent.mkdir(parents=True, exist_ok=True)
            create(spec)
        elif not is_there(spec.directory):
            return report.fail(lost_text(settings.name, spec.directory), STORAGE)
        trio.run(_until_told, run, spec, report)
    except* StoreError as group:
        code = report.fail(f"{settings.name}: {_first(group)}", STORAGE)
    except* OSError as group:
        error = _first(group)
        if not isinstance(error, OSError) or error.errno not in _ADDRESS_ERRORS:
            raise
        code = report.fail(
            f"{settings.name}: cannot listen on {address_text(settings.listen)}: {error.strerror or error}", ADDRESS
        )
    return code


def _arm(failpoints: str) -> str:
    """Arm them all; what is wrong, "" if nothing is."""
    from store.failpoints import BadFailpoint, arm

    try:
        for one in filter(None, failpoints.split(",")):
            arm(one)
    except BadFailpoint as error:
        return str(error)
    return ""


def _host(settings: PeerSettings) -> tuple[Run, Callable[[PeerSpec], None]]:
    """What runs this kind of peer, and what makes its directory."""
    if settings.gid == 0:
        from ctrler.host import create_controller, run_controller

        return run_controller, create_controller
    from shardkv.host import create_peer, run_peer

    return run_peer, create_peer


async def _until_told(run: Run, spec: PeerSpec, report: Report) -> None:
    """Run the peer; a first signal asks it to end, a second one ends it."""
    import signal

    import trio

    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_on_signals, signals, stop, nursery.cancel_scope)
            await run(spec, on_event=report, stop=stop)
            nursery.cancel_scope.cancel()


async def _on_signals(signals: Any, stop: trio.Event, scope: trio.CancelScope) -> None:
    async for _ in signals:
        if stop.is_set():
            scope.cancel()
        stop.set()


def _first(group: BaseException) -> BaseException:
    """The first error in a group of groups."""
    return next(_leaves(group))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def is_there(directory: Path) -> bool:
    """Whether a peer's data directory exists and has something in it."""
    try:
        return any(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False


def lost_text(name: str, directory: Path) -> str:
    """What to tell about a peer whose data directory is missing or empty."""
    return (
        f"{name}: its data directory {directory} is missing or empty. It is not made again, because the peer has made "
        "promises that only that directory knows: put it back as it was (only a peer that never ran is made, by --new)"
    )


def main(arguments: list[str] | None = None, host: Host | None = None) -> int:
    """`python -m tools.serve FILE [--json] [--new] [--failpoints[=SPEC,...]] [--pid-fd N]`: what `up` starts. Returns the
    exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    files = [word for word in words if not word.startswith("--")]
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in _OPTIONS]
    if len(files) != 1 or unknown:
        print(f"usage: python -m tools.serve FILE [--json] [--new] {unknown or ''}", file=sys.stderr)
        return USAGE
    for word in words:
        if word.startswith("--pid-fd="):
            _hold(int(word.partition("=")[2]))
    failpoints = next((word.partition("=")[2] for word in words if word.partition("=")[0] == "--failpoints"), None)
    return serve(Path(files[0]), as_json="--json" in words, new="--new" in words, failpoints=failpoints, host=host)


_OPTIONS = ("--json", "--new", "--failpoints", "--pid-fd")


def _hold(descriptor: int) -> None:
    """Say who holds the lock of the pid file that was inherited (see `processes`; the launcher may be dead)."""
    from tools.processes import write_pid

    os.set_inheritable(descriptor, False)
    write_pid(descriptor, os.getpid())


if __name__ == "__main__":
    sys.exit(main())
