"""Reports in the docs: every benchmark has its place, and a report read back is the one that was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.bench.publish import DOCS, SHOWS, NotThere, publish, put_into, read_report
from tools.bench.report import Report

PROBE = dict.fromkeys(("fdatasync_p50_ms", "fdatasync_p99_ms", "commit_p50_ms", "commit_p99_ms"), 0.2)
NAMES = ("processor", "cores", "file_system", "kernel", "python", "trio", "lmdb", "cbor2")
IDLE = {"kind": "idle", "groups": 1, "figures": {"messages_per_s": {"median": 41.5, "spread": 0.1, "rounds": [41.5]}}}
REPORT = Report("scale", "0.1.0", {**dict.fromkeys(NAMES, "x"), "memory_gb": 8.0}, ["other work runs"], [PROBE], 3.0)


@pytest.mark.parametrize("command", SHOWS)
def test_every_benchmark_has_its_place_in_the_docs(command: str) -> None:
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    changed = put_into(text, replace(REPORT, command=command))
    assert "**Other work runs.**" in changed
    assert put_into(changed, replace(REPORT, command=command)) == changed


def test_a_published_report_is_text_and_a_picture(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text("before\n<!-- bench scale -->\nold\n<!-- end -->\nafter\n")
    file = tmp_path / "scale.json"
    file.write_text(json.dumps(replace(REPORT, results=[IDLE]).as_json()))
    publish([file], tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert "| 1 | 41.5 | - | - | - |" in text
    assert (tmp_path / "bench-scale.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("text", ["", "{}", '{"command": 1}', json.dumps(replace(REPORT, command="other").as_json())])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(NotThere):
        read_report(text)


def test_a_document_without_the_place_is_refused() -> None:
    with pytest.raises(NotThere, match="bench scale"):
        put_into("nothing", REPORT)
