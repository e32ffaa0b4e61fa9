"""The dashboard: what happened between two looks, and how it reads."""

from __future__ import annotations

from io import StringIO
from typing import Any

from click.testing import CliRunner
from rich.console import Console

from tools.cli.main import cli
from tools.cli.top import picture
from tools.top import Frame, Look, frame


def row(gid: int, peer: int, applied: int, **fields: Any) -> dict[str, Any]:
    return {
        "name": f"server-{gid}-{peer}",
        "gid": gid,
        "peer": peer,
        "state": "running",
        "role": "follower",
        "term": 2,
        "commit": applied,
        "applied": [2, applied],
        "requests_sent": 10 * applied,
        "boot": 1,
        "log_bytes": 1_234_567,
        "pending_bytes": 0,
        "map_used_bytes": 4096,
        "no_space": False,
        "shards": [],
        **fields,
    }


DEAD = {"name": "server-1-2", "gid": 1, "peer": 2, "state": "dead", "pid": None}
SHARDS = [[0, "serving", 3, 0, 7, 70, 1, 1], [1, "frozen", 3, 2, 7, 70, 1, 1], [2, "deleted", 3, 0, 0, 0, 0, 0]]
CHANGE = {"current": 3, "next": 4, "steps": [[1, "copy", 2, 1.5]], "trouble": "", "cleaned": 3}


def shown(found: Frame, width: int = 80) -> str:
    text = StringIO()
    Console(width=width, file=text).print(picture(found))
    return text.getvalue()


def test_rates_and_who_is_behind() -> None:
    before = Look(10.0, [row(1, 0, 100, role="leader"), row(1, 1, 100), DEAD], None)
    now = Look(12.0, [row(1, 0, 150, role="leader", shards=SHARDS), row(1, 1, 120), DEAD], CHANGE)
    found = frame(before, now)
    leader, follower, dead = found.peers
    assert (leader["entries_per_s"], leader["requests_per_s"], leader["behind"]) == (25.0, 250.0, 0)
    assert (follower["entries_per_s"], follower["behind"]) == (10.0, 30)
    assert (dead["state"], dead["applied"], dead["entries_per_s"]) == ("dead", None, None)
    (group,) = found.groups
    assert (group["leader"], group["up"], group["peers"]) == ("server-1-0", 2, 3)
    assert group["shards"] == [[0, "serving"], [1, "frozen"], [2, "deleted"]]


def test_a_restart_or_a_first_look_gives_no_rate() -> None:
    before = Look(10.0, [row(1, 0, 100)], None)
    assert frame(before, Look(11.0, [row(1, 0, 30, boot=2)], None)).peers[0]["entries_per_s"] is None
    assert frame(None, Look(11.0, [row(1, 0, 30)], None)).peers[0]["requests_per_s"] is None
    assert frame(before, Look(11.0, [row(1, 0, 110), row(1, 1, 90)], None)).peers[1]["entries_per_s"] is None


def test_two_who_believe_to_lead_are_told_apart_by_their_terms() -> None:
    found = frame(None, Look(0.0, [row(1, 0, 1, role="leader"), row(1, 1, 1, role="leader", term=3)], None))
    assert found.groups[0]["leader"] == "server-1-1"


def test_the_picture_fits_a_terminal_and_names_what_is_wrong() -> None:
    now = Look(12.0, [row(1, 0, 150, role="leader", shards=SHARDS), row(1, 1, 120, no_space=True), DEAD], CHANGE)
    text = shown(frame(None, now))
    assert "…" not in text, "a column is cut in 80 columns"
    for part in ("server-1-0", "dead", "no space", "1.23M", "2/3 up, led by server-1-0; serves 0; 1 frozen"):
        assert part in text, part
    assert "configuration 3, changing to 4" in text and "shard 1: copy at group 2 for 1.5 s" in text


def test_nobody_leads_and_nobody_knows_of_a_change() -> None:
    text = shown(frame(None, Look(0.0, [DEAD], None)))
    assert "0/1 up, no leader" in text and "configuration" not in text


def test_no_cluster_is_one_line() -> None:
    done = CliRunner().invoke(cli, ["top", "--dir", "no-such-cluster"])
    assert done.exit_code == 2 and "no cluster there" in done.output
