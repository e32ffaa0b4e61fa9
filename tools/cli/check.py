"""`shardkv check`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from tools.cli.common import NEGATIVE, UNREACHABLE, USAGE, fail, json_option, put_out

UNKNOWN = 4


@click.command()
@click.argument("history", type=click.Path(path_type=Path, allow_dash=True), metavar="HISTORY.jsonl")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture here.")
@click.option(
    "--steps", type=click.IntRange(1), default=3_000_000, show_default=True, help="Bounds the search of a key."
)
@json_option
def check(history: Path, html: Path | None, steps: int, as_json: bool) -> None:
    """Is a history of gets, puts and deletes linearizable? The format is in docs/history-format.md; - reads standard input.

    \b
    Example: shardkv check history.jsonl --html why.html
    Exit codes: 0 it is; 1 it is not; 2 a line is wrong; 3 it cannot be read; 4 the search was cut short.
    --json: one object: verdict operations keys seconds failed ([{key verdict explained ops stuck}]).
    """
    from tools.checker.history import BadHistory, read_history, text_of
    from tools.checker.linearizability import check as judge
    from tools.checker.picture import picture

    try:
        with click.open_file(str(history), encoding="utf-8") as lines:
            ops = list(read_history(lines))
    except BadHistory as error:
        fail(f"{history}: {error}", USAGE)
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{history} cannot be read: {error}", UNREACHABLE)
    began = time.monotonic()
    verdict = judge(ops, steps_max=steps)
    seconds = time.monotonic() - began
    if html is not None:
        html.write_text(picture(ops, verdict, str(history)), encoding="utf-8")
    failed = [
        {
            "key": text_of(key.key),
            "verdict": key.verdict,
            "explained": len(key.order),
            "ops": key.ops,
            "stuck": [str(op) for op in key.stuck],
        }
        for key in verdict.failed
    ]
    if as_json:
        sums = {"verdict": verdict.verdict, "operations": len(ops), "keys": len(verdict.keys)}
        put_out({**sums, "seconds": round(seconds, 3), "failed": failed})
    else:
        for row in failed:
            click.echo(f"key {row['key']}: {row['verdict']}, {row['explained']} of {row['ops']} operations explained")
            for line in verdict_lines(row["stuck"]):
                click.echo(line)
        click.echo(f"{verdict.verdict}: {len(ops)} operations on {len(verdict.keys)} keys, {seconds:.2f} s")
        if failed and html is None:
            click.echo("a picture: --html why.html")
    sys.exit({"ok": 0, "illegal": NEGATIVE}.get(verdict.verdict, UNKNOWN))


def verdict_lines(stuck: object) -> list[str]:
    """The operations that cannot follow, indented."""
    assert isinstance(stuck, list)
    return [f"  cannot follow: {op}" for op in stuck[:5]]
