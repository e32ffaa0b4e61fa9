"""The cluster's directory: made once, whatever crashes; found again; never made anew. No process is started here."""

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import shardkv.host
from store.engine import StoreError
from tools.cluster import LocalCluster, UpReport
from tools.layout import ClusterError, Layout, WrongCall
from tools.manifest import (
    FILE,
    GroupSpec,
    Manifest,
    need_manifest,
    new_cluster_id,
    peer_name,
    read_manifest,
    split_name,
    write_manifest,
)
from tools.processes import PORTS, LockHeld, PeerProcess, free_ports, is_locked, take_lock, write_pid
from tools.settings import SettingsError, read_settings

SMALL = Layout(ctrl_peers=1, groups=1, replicas=2)


class Killed(BaseException):
    """Stands for the end of the process in the middle of something."""


def manifest() -> Manifest:
    groups = {0: GroupSpec.fresh(("127.0.0.1:1",)), 1: GroupSpec.fresh(("127.0.0.1:2", "127.0.0.1:3"))}
    return Manifest(new_cluster_id(), groups)


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("server-*-*") if path.is_dir()}


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    wanted = replace(manifest(), published=True, join=False, store="kvsrv")
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, wanted)
    assert read_manifest(tmp_path) == wanted


def test_a_crash_while_the_manifest_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = manifest()
    write_manifest(tmp_path, old)
    for call in ("fsync", "replace"):

        def killed(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(os if call == "fsync" else Path, call, killed)
            with pytest.raises(Killed):
                write_manifest(tmp_path, replace(old, published=True))
        assert read_manifest(tmp_path) == old


def test_the_manifest_is_synced_before_and_its_folder_after_the_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        done.append("sync")
        fsync(descriptor)

    def watched_rename(path: Path, target: Path) -> Path:
        done.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_rename)
    write_manifest(tmp_path, manifest())
    assert done == ["sync", "rename", "sync"]


def test_a_typo_in_the_manifest_is_told(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    path = tmp_path / FILE
    path.write_text(path.read_text(encoding="utf-8").replace("created", "craeted", 1), encoding="utf-8")
    with pytest.raises(SettingsError, match=re.escape("groups.0.craeted: unknown key")):
        read_manifest(tmp_path)


def test_no_cluster_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no cluster there"):
        need_manifest(tmp_path)


def test_names() -> None:
    assert manifest().names() == ["server-0-0", "server-1-0", "server-1-1"]
    assert split_name(peer_name(12, 3)) == (12, 3)
    for strange in ("server-1", "server-01-0", "server-1-x", "peer-1-0", "server-1-0-0", "server--1-0"):
        assert split_name(strange) is None


# --- making a cluster ------------------------------------------------------------------------------------------------


def test_lease_reads_reach_every_peer_of_the_cluster(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    with cluster.locked():
        cluster.prepare(replace(SMALL, lease_reads=True))
    assert all(read_settings(tmp_path / f"{name}.toml").lease_reads for name in cluster.manifest.names())


def test_a_cluster_is_made_once(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "data")
    with cluster.locked():
        made = cluster.prepare(SMALL)
        before = inodes(cluster.folder)
        again = cluster.prepare(Layout(ctrl_peers=3, groups=2))
    assert again == made and all(group.created for group in made.groups.values())
    assert list(before) == sorted(before, key=list(before).index) and len(before) == 3
    assert inodes(cluster.folder) == before
    for name in made.names():
        assert read_settings(cluster.folder / f"{name}.toml").name == name


@pytest.mark.parametrize("survivors", range(3))
def test_a_first_up_that_was_killed_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survivors: int
) -> None:
    cluster = LocalCluster(tmp_path / "data")
    made: list[str] = []
    create = shardkv.host.create_peer

    def create_some(spec: shardkv.host.PeerSpec, *machine: object) -> None:
        if len(made) == survivors:
            raise Killed
        made.append(spec.name)
        create(spec, *machine)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("shardkv.host.create_peer", create_some)
        patch.setattr("ctrler.host.create_peer", create_some)
        with cluster.locked(), pytest.raises(Killed):
            cluster.prepare(SMALL)
    cut_short = cluster.manifest
    assert not any(group.created for group in cut_short.groups.values())
    before = inodes(cluster.folder)
    with cluster.locked():
        finished = cluster.prepare(SMALL)
    assert finished.cluster == cut_short.cluster and all(group.created for group in finished.groups.values())
    after = inodes(cluster.folder)
    assert sorted(after) == finished.names()
    assert {name: after[name] for name in before} == before


def test_a_directory_half_made_by_a_killed_up_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = LocalCluster(tmp_path / "data")
    with cluster.locked():
        made = cluster.prepare(SMALL)
    # As if it had been killed between the two environments of the last peer, before the mark.
    for part in (cluster.folder / "server-1-1" / "log").iterdir():
        part.unlink()
    (cluster.folder / "server-1-1" / "log").rmdir()
    write_manifest(cluster.folder, made.with_group(1, replace(made.groups[1], created=False)))
    with cluster.locked():
        assert cluster.prepare(SMALL) == made
    assert (cluster.folder / "server-1-1" / "log").is_dir()


@pytest.mark.parametrize("missing", [True, False])
def test_an_emptied_directory_is_refused_and_never_made_again(tmp_path: Path, missing: bool) -> None:
    cluster = LocalCluster(tmp_path / "data")
    with cluster.locked():
        cluster.prepare(SMALL)
        lost = cluster.folder / "server-1-1"
        lost.rename(tmp_path / "taken away")
        if not missing:
            lost.mkdir()
        cluster.prepare(SMALL)
        report = UpReport()
        cluster.start_one("server-1-1", report)
    assert not report.started
    assert "missing or empty" in report.troubles["server-1-1"] and str(lost) in report.troubles["server-1-1"]
    assert lost.exists() is not missing
    assert missing or not list(lost.iterdir())


def test_a_peer_that_exists_is_not_bootstrapped_again(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "data")
    with cluster.locked():
        made = cluster.prepare(SMALL)
    with pytest.raises(StoreError):
        shardkv.host.create_peer(made.settings(cluster.folder, 1, 0).spec())


def test_data_without_its_manifest_is_left_alone(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    (tmp_path / "server-1-0").mkdir()
    with cluster.locked(), pytest.raises(ClusterError, match=re.escape(f"no {FILE}")):
        cluster.prepare(SMALL)
    assert not (tmp_path / FILE).exists()


def test_a_disk_without_room_is_told_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=40 << 20))
    cluster = LocalCluster(tmp_path)
    with cluster.locked(), pytest.raises(ClusterError, match=r"40 MiB are free on its disk; .* only where 80 are"):
        cluster.prepare(SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with LocalCluster(tmp_path).locked():
        with pytest.raises(ClusterError, match="another shardkv command"), LocalCluster(tmp_path).locked():
            pass
    with LocalCluster(tmp_path).locked():
        pass


def test_an_unknown_peer_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    with pytest.raises(WrongCall, match="'server-1-9': the peers are server-0-0, server-1-0, server-1-1"):
        LocalCluster(tmp_path).pause("server-1-9")


@pytest.mark.parametrize("wrong", [{"ctrl_peers": 0}, {"groups": 0}, {"replicas": 10}, {"store": "kvsrv"}])
def test_an_impossible_layout_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ClusterError):
        Layout(**wrong)  # type: ignore[arg-type]


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_pid_file_that_nobody_holds_is_no_process(tmp_path: Path) -> None:
    """The pid in it may be anybody's by now: here it is our own, and it gets no signal."""
    import signal

    process = PeerProcess("server-1-0", tmp_path)
    process.pid_file.parent.mkdir()
    process.pid_file.write_text(f"{os.getpid()} 0\n", encoding="ascii")
    assert not process.is_running() and process.pid() is None
    assert not process.signal(signal.SIGKILL)


def test_a_held_pid_file_names_its_process(tmp_path: Path) -> None:
    process = PeerProcess("server-1-0", tmp_path)
    process.pid_file.parent.mkdir()
    lock = take_lock(process.pid_file)
    try:
        write_pid(lock, os.getpid())
        assert process.is_running() and process.pid() == os.getpid()
        assert is_locked(process.pid_file)
        with pytest.raises(LockHeld):
            take_lock(process.pid_file)
    finally:
        os.close(lock)
    assert not process.is_running()


def test_ports_are_different_and_below_those_of_outgoing_connections() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20 and all(port in PORTS for port in ports)


def test_last_words_are_the_error_event_or_the_last_line(tmp_path: Path) -> None:
    process = PeerProcess("server-1-0", tmp_path)
    assert "without a word" in process.last_words()
    process.log_file.parent.mkdir()
    process.log_file.write_text('{"event": "imported"}\nTraceback\nValueError: so\n', encoding="utf-8")
    assert process.last_words() == "ValueError: so"
    process.log_file.write_text(
        '{"event": "error", "text": "the port is in use"}\nshardkv serve: x\n', encoding="utf-8"
    )
    assert process.last_words() == "the port is in use"
