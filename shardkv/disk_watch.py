"""What a peer looks at each second, beside its work: is there room, do commits return, did readers die.

The core watches the saves of its log (`storage_stall_s`); this watches the writers, whatever they write. A commit that does
not return is as fatal as one that fails: the peer would go on refusing for ever what it cannot flush.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from store.engine import StoreError, Writer
from store.lmdb_engine import LmdbEngine
from store.patience import CommitStalled, Patience
from store.space import SpaceMonitor

LOOK_S = 1.0
READER_CHECK_S = 30.0
STATE_STALL_S = 30.0
"""How long a commit of state/ may take. Much longer than one of log/: nothing waits for it, and a flush of scattered rows may
write a hundred megabytes of pages to a slow disk."""


async def watch_disk(
    directory: Path,
    engines: Sequence[LmdbEngine],
    writers: Sequence[tuple[Writer, float]],
    *,
    on_alarm: Callable[[bool], Any],
    trouble: Callable[[str], Any],
    fatal: Callable[[BaseException], Any],
) -> None:
    """For as long as the peer lives. `writers` with how long a commit of each may take, in seconds; `on_alarm` hears when
    room becomes short and when it is there again; `fatal` is called with what the peer must die of, and the watching ends:
    a commit that does not return, a directory that is gone."""
    monitors = [SpaceMonitor(engine, directory) for engine in engines]
    patience = [(writer, Patience(limit_s, LOOK_S)) for writer, limit_s in writers]
    short = False
    looked = trio.current_time()
    while True:
        try:
            alarm = any(monitor.look().alarm for monitor in monitors)
            for writer, one in patience:
                one.look(None if writer.busy_since is None else writer.finished)
        except CommitStalled as error:
            fatal(error)
            return
        except OSError as error:
            fatal(StoreError(f"{directory} is gone: {error.strerror}"))
            return
        if alarm != short:
            short = alarm
            on_alarm(alarm)
            trouble("low on space: only deletes pass" if alarm else "there is space again: puts pass")
        if trio.current_time() - looked >= READER_CHECK_S:
            looked = trio.current_time()
            for engine in engines:
                engine.check_readers()
        await trio.sleep(LOOK_S)
