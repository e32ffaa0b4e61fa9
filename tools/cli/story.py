"""`shardkv story`."""

from __future__ import annotations

from pathlib import Path

import click

from tools.cli.common import fail, json_option, one_line_errors, put_out


@click.command()
@click.argument("name", required=False)
@click.argument("folder", required=False, type=click.Path(path_type=Path), metavar="DIR")
@json_option
def story(name: str | None, folder: Path | None, as_json: bool) -> None:
    """Make an accident happen to a cluster, and leave its directories in DIR, to learn `shardkv inspect` with.

    Without arguments: which ones there are. The same story leaves the same records each time.

    \b
    Example: shardkv story lost-vote lost-vote && shardkv inspect verify lost-vote
    --json: name, title, directories [path]; without arguments a line with name and title each.
    """
    from tools.stories.accidents import STORIES, make

    if name is None:
        for known, accident in STORIES.items():
            put_out({"name": known, "title": accident.title}) if as_json else click.echo(
                f"{known:<20} {accident.title}"
            )
        return
    if name not in STORIES:
        fail(f"there is no story {name!r}: {', '.join(STORIES)}", 2)
    if folder is None:
        fail("name the directory to make, which must not exist", 2)
    if folder.exists():
        fail(f"{folder} exists already: name a new directory", 2)
    with one_line_errors():
        made = make(name, folder)
    if as_json:
        put_out({"name": name, "title": STORIES[name].title, "directories": [str(path) for path in made]})
    else:
        click.echo(f"{folder}: {len(made)} peers' directories")
