"""What the lean load generator makes of replies that are not OK."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from shardkv.replies import Code, error
from tools.bench.wire import Routes, WireLoad
from tools.bench.workload import Workload


def test_a_new_session_where_others_were_evicted_begins_as_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose sessions are full answers the first operation of a new one with EXPIRED and the tick to go on from."""
    load = WireLoad(Workload("put", clients=1), Routes(lambda key: 0, [1], {1: ["127.0.0.1:1"]}), Random(1))
    sent: list[list[Any]] = []
    monkeypatch.setattr(load, "_send", lambda session: sent.append([*session.request[2][:4]]))
    line: Any = None
    try:
        (session,) = load._sessions
        load._free(session, 0.0)
        load._answered(session, [*error(Code.SESSION_EXPIRED), 4711], 0.0, line)
    finally:
        load.close()
    assert [as_of for _, _, _, as_of in sent] == [0, 4711]
