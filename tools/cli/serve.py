"""`shardkv init` and `shardkv serve`: peers that live on several machines."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tools.cli.common import USAGE, fail, json_option, one_line_errors, put_out


@click.command()
@click.option("--out", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where to.")
@click.option(
    "--ctrl", "controllers", multiple=True, required=True, metavar="HOST:PORT", help="A controller; each one."
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    required=True,
    metavar="HOST:PORT,...",
    help="The peers of a shard group; once for each group. They are numbered from 1 in this order.",
)
@click.option("--store", type=click.Choice(["kvraft", "kvsrv"]), default="kvraft", show_default=True)
@click.option("--lease-reads", is_flag=True, help="Leaders answer gets under their lease.")
@click.option("--insecure", is_flag=True, help="Allow addresses other than loopback: there is no TLS yet.")
@json_option
def init(
    folder: Path,
    controllers: tuple[str, ...],
    groups: tuple[str, ...],
    store: str,
    lease_reads: bool,
    insecure: bool,
    as_json: bool,
) -> None:
    """Write one TOML file per peer, with a common cluster id, and cluster.toml for the clients, into --out.

    Copy each file to its machine, and there run `shardkv serve --new FILE` the first time, and `shardkv serve FILE` ever
    after. When they run, `shardkv ctrl join 1` makes the first configuration. With cluster.toml in a folder on any
    machine, that folder is the --dir of the commands there.

    \b
    Example:
      shardkv init --out three --insecure \\
          --ctrl 10.0.0.1:7000 --ctrl 10.0.0.2:7000 --ctrl 10.0.0.3:7000 \\
          --group 10.0.0.1:7100,10.0.0.2:7100,10.0.0.3:7100

    JSON keys: cluster, files [path].
    """
    from tools.manifest import FILE, GroupSpec, Manifest, new_cluster_id, write_manifest

    specs = {0: GroupSpec.fresh(_addresses("--ctrl", ",".join(controllers), insecure))}
    for gid, text in enumerate(groups, 1):
        specs[gid] = GroupSpec.fresh(_addresses("--group", text, insecure))
    everywhere = [address for spec in specs.values() for address in spec.addresses]
    if len(set(everywhere)) != len(everywhere):
        twice = next(address for address in everywhere if everywhere.count(address) > 1)
        fail(f"{twice} is the address of two peers", USAGE)
    if store == "kvsrv" and len(specs[0].addresses) != 1:
        fail(f"--ctrl: a kvsrv is one server, not {len(specs[0].addresses)}", USAGE)
    manifest = Manifest(new_cluster_id(), specs, store=store, local=False, insecure=insecure, lease_reads=lease_reads)
    with one_line_errors():
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / FILE).exists():
            fail(f"{folder / FILE} exists already: a cluster is made once; use another --out", USAGE)
        for gid in manifest.groups:
            manifest.write_settings(folder, gid)
        write_manifest(folder, manifest)
    files = [str(folder / f"{name}.toml") for name in manifest.names()]
    if as_json:
        put_out({"cluster": manifest.cluster.hex(), "files": files})
    else:
        click.echo("\n".join([*files, str(folder / FILE)]))


def _addresses(option: str, texts: str, insecure: bool) -> tuple[str, ...]:
    from tools.settings import MAX_GROUP_PEERS, address_text, is_loopback, parse_address

    try:
        found = [parse_address(text.strip()) for text in texts.split(",")]
    except ValueError as error:
        fail(f"{option}: {error}", USAGE)
    if len(found) > MAX_GROUP_PEERS:
        fail(f"{option}: {len(found)} peers, at most {MAX_GROUP_PEERS} are allowed", USAGE)
    for host, _ in found:
        if not insecure and not is_loopback(host):
            fail(f"{option}: {host} is reachable from outside and there is no TLS yet: needs --insecure", USAGE)
    return tuple(address_text(address) for address in found)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--new", is_flag=True, help="Make the peer's data directory first; it must not exist.")
@click.option(
    "--failpoints",
    is_flag=False,
    flag_value="",
    metavar="[SPEC,...]",
    help="Let it be killed or stopped at named places (`shardkv failpoints`). Only on loopback, for tests.",
)
@click.option("--json", "as_json", is_flag=True, help="Events as JSON, an object per line.")
def serve(file: Path, new: bool, failpoints: str | None, as_json: bool) -> None:
    """Run the peer that FILE describes until SIGTERM or Ctrl-C: then it hands over leadership and ends.

    \b
    Example: shardkv serve server-1-0.toml

    JSON keys: event (imported, recovered, listening, leader, follower, trouble, error, stopped), time (unix ms),
    monotonic, name, and those of the event. Exit codes: 0 ended as asked, 2 wrong call or file, 3 the data cannot be
    used, 4 the address cannot be listened on.
    """
    from tools.serve import serve as serve_peer

    sys.exit(serve_peer(file, as_json=as_json, new=new, failpoints=failpoints))
