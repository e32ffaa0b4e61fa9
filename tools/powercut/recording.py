"""Recording: a program is run under strace, and what it did to one directory, its marks and its connections becomes steps.

Followed are the descriptors of one process with all its threads: what each one stands for, its offset, whether it is
O_DSYNC; the names under the directory; and which bytes went over which socket. Another process of the program may run, but
not touch the directory. What the model does not have is refused, not passed over: a shared writable map of a data file,
links, `sync_file_range`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.powercut.events import BEGIN, END, ROOT, Action, Mark, Names, New, Recording, Resize, Step, Sync, Talk, Write
from tools.powercut.strace import FILES, OPTIONS, SOCKETS, THREADS, BadTrace, Call, calls, threads

MARKS_FILE = "marks"
"""Beside the recorded directory: lines that the program writes there are marks."""
LOCK_FILES = frozenset({"lock.mdb"})
"""Mapped and written by LMDB for its readers; what is in them after a crash is thrown away at the next open."""

_READS = frozenset({"recvfrom", "recvmsg"})


def strace_command(trace: Path, command: Sequence[str], *, sockets: bool = False) -> list[str]:
    """What runs `command` and writes its trace. Raises `FileNotFoundError` without strace."""
    strace = shutil.which("strace")
    if strace is None:
        raise FileNotFoundError("strace is not installed: it records the system calls (Debian: apt-get install strace)")
    wanted = ",".join((*FILES, *THREADS, *(SOCKETS if sockets else ())))
    return [strace, *OPTIONS, "-e", f"trace={wanted}", "-o", str(trace), "--", *command]


def record(trace: Path, command: Sequence[str], timeout_s: float) -> None:
    """Run `command` to its end with its system calls written to `trace`. `BadTrace` with its last words if it fails."""
    try:
        ended = subprocess.run(
            strace_command(trace, command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise BadTrace(f"the recorded program did not end within {timeout_s:g} s") from None
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        raise BadTrace(f"the recorded program failed: {said[-1] if said else f'exit code {ended.returncode}'}")


def read_recording(trace: Path, root: Path, marks: Path | None = None) -> Recording:
    """The steps of a trace. `root` is the directory, under the name that the program used. Raises `BadTrace`."""
    with trace.open(encoding="ascii") as lines:
        return recorded(lines, root, marks)


def recorded(lines: Iterable[str], root: Path, marks: Path | None = None) -> Recording:
    """See `read_recording`."""
    watcher = _Watcher(str(root), None if marks is None else str(marks))
    made = list(calls(lines))
    ours = threads(made)
    for begins, call in made:
        if call.thread in ours:
            watcher.take(begins, call)
        elif '"' in call.arguments and any(os.fsdecode(text).startswith(str(root)) for text in call.strings()):
            raise BadTrace(f"another process of the program called {call.name} on the recorded directory")
    return Recording(root.name, tuple(watcher.steps))


@dataclass(slots=True)
class _Open:
    """What a descriptor stands for: a node under the directory, the marks, a socket, or anything else (none of them)."""

    node: int | None = None
    path: str = ""
    marks: bool = False
    socket: int | None = None
    synced: bool = False
    append: bool = False
    offset: int = 0


class _Watcher:
    def __init__(self, root: str, marks: str | None) -> None:
        self.steps: list[Step] = []
        self._root = root
        self._marks = marks
        self._nodes = ROOT
        self._paths: dict[str, int] = {}
        self._sizes: dict[int, int] = {}
        self._directories = {ROOT}
        self._open: dict[int, _Open] = {}
        self._opening: dict[int, _Open] = {}
        self._ends: dict[int, list[Action]] = {}
        self._sockets = 0

    # --- steps -------------------------------------------------------------------------------------------------------

    def take(self, begins: bool, call: Call) -> None:
        """One moment of a call. Effects stand at its begin, but for what is only known at its end: what was read, and new
        descriptors."""
        if begins == (call.name not in _READS):
            handler = getattr(self, f"_on_{call.name}", None)
            actions: list[Action] = [] if handler is None else list(handler(call) or ())
            self.steps += [Step(call.number, BEGIN, action) for action in actions]
            self._ends[call.number] = actions
        if not begins:
            self.steps += [Step(call.number, END, action) for action in self._ends.pop(call.number, [])]
            # Only now: the number may have been another file's, which was closed while this call ran.
            if call.number in self._opening:
                self._open[call.result] = self._opening.pop(call.number)

    # --- names -------------------------------------------------------------------------------------------------------

    def _path(self, call: Call, which: int = 0) -> str:
        """Argument `which` that is a path, made absolute."""
        text = os.fsdecode(call.strings()[which])
        if text.startswith("/"):
            return os.path.normpath(text)
        base = call.arguments.partition(", ")[0]
        if call.name.rstrip("2").endswith("at") and base != "AT_FDCWD":
            opened = self._open.get(int(base))
            return os.path.normpath(f"{opened.path}/{text}") if opened else ""
        return os.path.abspath(text)  # noqa: PTH100  # a name as it was used, links and all

    def _parent(self, path: str) -> tuple[int, str] | None:
        """(directory, name) of a path under the root; None outside."""
        if not path.startswith(self._root + "/"):
            return None
        parent, _, name = path.rpartition("/")
        return (ROOT if parent == self._root else self._paths[parent]), name

    def _make(self, path: str, is_directory: bool) -> list[Action]:
        where = self._parent(path)
        if where is None:
            return []
        self._nodes += 1
        node = self._paths[path] = self._nodes
        if is_directory:
            self._directories.add(node)
        else:
            self._sizes[node] = 0
        return [New(node, is_directory), Names(where[0], ((where[1], node),))]

    def _on_mkdir(self, call: Call) -> list[Action]:
        return self._make(self._path(call), True)

    _on_mkdirat = _on_mkdir

    def _on_unlink(self, call: Call) -> list[Action]:
        path = self._path(call)
        where = self._parent(path)
        if where is None:
            return []
        self._paths.pop(path)
        return [Names(where[0], ((where[1], None),))]

    _on_unlinkat = _on_rmdir = _on_unlink

    def _on_rename(self, call: Call) -> list[Action]:
        old, new = self._path(call, 0), self._path(call, 1)
        source, target = self._parent(old), self._parent(new)
        if source is None and target is None:
            return []
        if source is None or target is None or source[0] != target[0]:
            raise BadTrace(f"{old} was renamed to {new}, in another directory: that is not modelled")
        if old == new:
            return []
        node = self._paths.pop(old)
        for path in [path for path in self._paths if path.startswith((new + "/",)) or path == new]:
            del self._paths[path]
        self._paths[new] = node
        for path in [path for path in self._paths if path.startswith(old + "/")]:
            self._paths[new + path.removeprefix(old)] = self._paths.pop(path)
        for opened in self._open.values():
            if opened.path == old or opened.path.startswith(old + "/"):
                opened.path = new + opened.path.removeprefix(old)
        return [Names(source[0], ((source[1], None), (target[1], node)))]

    _on_renameat = _on_renameat2 = _on_rename

    def _on_link(self, call: Call) -> None:
        if any(os.fsdecode(text).startswith(self._root) for text in call.strings()):
            raise BadTrace("a link was made: that is not modelled")

    _on_linkat = _on_symlink = _on_symlinkat = _on_link

    # --- descriptors -------------------------------------------------------------------------------------------------

    def _on_open(self, call: Call) -> list[Action]:
        path = self._path(call)
        flags = call.arguments.rpartition('"')[2]
        opened = _Open(path=path, append="O_APPEND" in flags, synced="O_DSYNC" in flags or "O_SYNC" in flags)
        opened.marks = path == self._marks
        actions: list[Action] = []
        if path == self._root:
            opened.node = ROOT
        elif path.startswith(self._root + "/"):
            if path not in self._paths and "O_CREAT" in flags:
                actions = self._make(path, False)
            opened.node = self._paths.get(path)
            if opened.node is None:
                raise BadTrace(f"{path} was there before the recording began")
            if "O_TRUNC" in flags:
                actions += self._resized(opened.node, 0)
        self._opening[call.number] = opened
        return actions

    _on_openat = _on_creat = _on_open

    def _on_close(self, call: Call) -> None:
        self._open.pop(call.descriptor(), None)

    def _on_dup(self, call: Call) -> None:
        self._copy(call)

    _on_dup2 = _on_dup3 = _on_dup

    def _on_fcntl(self, call: Call) -> None:
        if "F_DUPFD" in call.arguments:
            self._copy(call)

    def _copy(self, call: Call) -> None:
        opened = self._open.get(call.descriptor())
        if opened is not None:
            self._opening[call.number] = opened

    def _on_lseek(self, call: Call) -> None:
        if (opened := self._open.get(call.descriptor())) is not None:
            opened.offset = call.result

    # --- bytes -------------------------------------------------------------------------------------------------------

    def _on_write(self, call: Call) -> list[Action]:
        opened = self._open.get(call.descriptor())
        if opened is None or (opened.node is None and not opened.marks and opened.socket is None):
            return []
        data = b"".join(call.strings())[: call.result]
        if opened.marks:
            return [Mark(line) for line in data.decode().splitlines()]
        if opened.socket is not None:
            return [Talk(opened.socket, True, data)]
        at = self._sizes[opened.node or 0] if opened.append else opened.offset
        opened.offset = at + len(data)
        return self._written(opened, at, data)

    _on_writev = _on_write

    def _on_pwrite64(self, call: Call) -> list[Action]:
        opened = self._open.get(call.descriptor())
        if opened is None or opened.node is None:
            return []
        return self._written(opened, call.numbers_after_strings()[1], b"".join(call.strings())[: call.result])

    _on_pwritev = _on_pwritev2 = _on_pwrite64

    def _written(self, opened: _Open, at: int, data: bytes) -> list[Action]:
        assert opened.node is not None
        self._sizes[opened.node] = max(self._sizes[opened.node], at + len(data))
        return [Write(opened.node, at, data, opened.synced)]

    def _on_ftruncate(self, call: Call) -> list[Action]:
        opened = self._open.get(call.descriptor())
        size = int(call.arguments.rpartition(", ")[2])
        return [] if opened is None or opened.node is None else self._resized(opened.node, size)

    def _on_truncate(self, call: Call) -> list[Action]:
        node = self._paths.get(self._path(call))
        return [] if node is None else self._resized(node, int(call.arguments.rpartition(", ")[2]))

    def _on_fallocate(self, call: Call) -> list[Action]:
        opened = self._open.get(call.descriptor())
        if opened is None or opened.node is None:
            return []
        _, mode, offset, length = call.arguments.split(", ")
        if mode != "0":
            raise BadTrace(f"fallocate with mode {mode} is not modelled")
        end = int(offset) + int(length)
        return self._resized(opened.node, end) if end > self._sizes[opened.node] else []

    def _resized(self, node: int, size: int) -> list[Action]:
        self._sizes[node] = size
        return [Resize(node, size)]

    def _on_fsync(self, call: Call) -> list[Action]:
        opened = self._open.get(call.descriptor())
        return [] if opened is None or opened.node is None else [Sync(opened.node)]

    _on_fdatasync = _on_fsync

    def _on_mmap(self, call: Call) -> None:
        _, _, protection, flags, descriptor, _ = call.arguments.split(", ")
        opened = self._open.get(int(descriptor))
        if opened is None or opened.node is None or "MAP_SHARED" not in flags or "PROT_WRITE" not in protection:
            return
        if opened.path.rpartition("/")[2] not in LOCK_FILES:
            raise BadTrace(f"{opened.path} is written through memory: that cannot be recorded")

    def _unmodelled(self, call: Call) -> None:
        raise BadTrace(f"the program called {call.name}: that is not modelled")

    _on_sync = _on_syncfs = _on_sync_file_range = _unmodelled
    _on_sendfile = _on_copy_file_range = _unmodelled

    # --- sockets -----------------------------------------------------------------------------------------------------

    def _on_socket(self, call: Call) -> list[Action]:
        self._sockets += 1
        self._opening[call.number] = _Open(socket=self._sockets)
        return [Talk(self._sockets, True, b"")]

    _on_accept = _on_accept4 = _on_socket

    _on_sendto = _on_sendmsg = _on_write

    def _on_recvfrom(self, call: Call) -> list[Action]:
        opened = self._open.get(call.descriptor())
        if opened is None or opened.socket is None or not call.result:
            return []
        return [Talk(opened.socket, False, b"".join(call.strings())[: call.result])]

    _on_recvmsg = _on_recvfrom
