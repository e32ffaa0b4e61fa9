"""`shardkv check`, the documented format, and the picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tools.checker.history import FOREVER, OPS, BadHistory, Op, read_history, to_line
from tools.checker.linearizability import check
from tools.checker.picture import picture
from tools.cli.main import cli

PAGE = Path(__file__).resolve().parents[3] / "docs" / "history-format.md"
LEGAL, ILLEGAL = re.findall(r"```jsonl\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def run(*arguments: str, text: str | None = None) -> tuple[int, str]:
    found = CliRunner().invoke(cli, ["check", *arguments], input=text)
    return found.exit_code, found.output


def test_the_examples_of_the_page() -> None:
    code, output = run("-", text=LEGAL)
    assert (code, output.split(":")[0]) == (0, "ok")
    code, output = run("-", text=ILLEGAL)
    assert code == 1 and "cannot follow: b: get k -> one" in output and "--html" in output


def test_json_and_html(tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    file.write_text(ILLEGAL, encoding="utf-8")
    code, output = run(str(file), "--json", "--html", str(tmp_path / "why.html"))
    found = json.loads(output)
    assert code == 1 and found["verdict"] == "illegal" and found["operations"] == 3
    assert found["failed"][0]["explained"] == 2 and len(found["failed"][0]["stuck"]) == 1
    page = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert 'class="get stuck"' in page and "the key was two, version 2" in page and "http" not in page


def test_a_search_that_is_cut_short_is_told_apart() -> None:
    assert run("-", "--steps", "1", text=LEGAL)[0] == 4


def test_what_cannot_be_read(tmp_path: Path) -> None:
    code, output = run(str(tmp_path / "none"))
    assert code == 3 and output.count("\n") == 1
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert run(str(tmp_path / "bytes"))[0] == 3


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nonsense", "line 1"),
        ("[1]", "no JSON object"),
        ('{"op": "push", "key": "k", "start": 0}', "op is one of"),
        ('{"op": "get", "key": "k", "start": "now"}', "start is a number"),
        ('{"op": "get", "key": "k", "start": 2, "end": 1}', "before it starts"),
        ('{"op": "get", "start": 0}', "no key"),
        ('{"op": "put", "key": "k", "start": 0}', "needs a value"),
        ('{"op": "get", "key": "k", "start": 0, "end": 1, "result": "mismatch"}', "result of a get"),
        ('{"op": "get", "key": "k", "start": 0, "end": 1, "result": "fine"}', "result is one of"),
        ('{"op": "get", "key": "k", "start": 0, "colour": 1}', "unknown field"),
        ('{"op": "put", "key": "k", "value": "v", "version": -1, "start": 0}', "from 0 on"),
        ('{"op": "get", "key_hex": "zz", "start": 0}', "line 1"),
        ('{"op": "get", "key": 5, "start": 0}', "key is text"),
        ('{"op": "get", "key": "k", "start": 1e999}', "start is"),
    ],
)
def test_a_bad_line_is_named(line: str, why: str) -> None:
    with pytest.raises(BadHistory, match=re.escape(why)):
        list(read_history([line]))
    code, output = run("-", text=line)
    assert code == 2 and "line 1" in output and output.count("\n") == 1


texts = st.binary(max_size=6)
times = st.floats(0, 1e6, allow_nan=False)


@given(st.sampled_from(OPS), texts, texts, st.none() | st.integers(0, 9), times, st.floats(0, 10), st.text(max_size=4))
def test_a_line_says_all_of_an_operation(
    op: str, key: bytes, value: bytes, version: int | None, start: float, length: float, client: str
) -> None:
    for end, result in ((start + length, "ok"), (FOREVER, "maybe")):
        made = Op(client, op, key, value, version, start, end, result, 3 if result == "ok" else None)
        (read,) = read_history([to_line(made)])
        assert read == made


def test_a_picture_hides_nothing_of_what_a_client_said() -> None:
    ops = [
        Op("<b>", "put", b"k", b"<i>", None, 0.0, 1.0, "ok", 1),
        Op("<b>", "get", b"k", b"x&y", None, 2.0, 3.0, "ok", 1),
    ]
    page = picture(ops, check(ops), "<title>")
    assert "&lt;b&gt;" in page and "x&amp;y" in page and "<b>" not in page and "<i>" not in page
