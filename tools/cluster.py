"""`LocalCluster`: a whole cluster on this machine, in one directory.

    cluster.toml              what it consists of (see `manifest`)
    server-1-0.toml           the settings of a peer (see `settings`), written anew by every `up`
    server-1-0/               its data
    logs/server-1-0.jsonl     its events, all its lives one after another
    run/server-1-0.pid        locked by its process (see `processes`)
    lock                      locked by whoever starts or stops something

Every method is for one task at a time; methods that start or stop something take the directory's lock, so that two
commands at once do not undo each other. Cancelling one leaves the cluster as far as it came; repeat it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from raftlog.net.base import RpcClient
from store.space import BALLAST_BYTES, DISK_RESERVE_BYTES
from tools.admin import control, network, peer_status, peer_statuses, shut_down
from tools.layout import ClusterError, Layout, WrongCall
from tools.manifest import (
    GroupSpec,
    Manifest,
    need_manifest,
    read_manifest,
    split_name,
    sync_folder,
    write_manifest,
)
from tools.processes import LockHeld, PeerProcess, ProcessError, free_ports, take_lock
from tools.serve import is_there, lost_text
from tools.settings import PeerSettings, parse_address

USABLE_S = 60.0
"""How long a cluster may take from the start of its processes until it can be used, in seconds."""

END_S = 5.0
"""How long a peer may take to end after each way of telling it to, in seconds."""

ASK_AGAIN_S = 0.02

Tell = Callable[[str], None]


@dataclass
class UpReport:
    """What `up` did: the peers it started, those that ran already, and one line for each that does not run."""

    started: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    troubles: dict[str, str] = field(default_factory=dict)


class LocalCluster:
    """The cluster in one directory. `tell` gets a line per step, for a person who waits."""

    def __init__(self, folder: Path, tell: Tell = lambda line: None) -> None:
        self.folder = folder.resolve()
        self.tell = tell
        self.processes: dict[str, PeerProcess] = {}
        self.routes: dict[str, dict[str, str]] = {}
        """What each peer dials instead of an address, by the peer's name; takes effect at its next start. Not kept: see
        `tools.proxy`."""

    # --- what it consists of -----------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """What the cluster consists of, read anew. Raises `SettingsError`."""
        return need_manifest(self.folder)

    def process(self, name: str) -> PeerProcess:
        """The process of the peer with this name. Raises `ClusterError` for an unknown one."""
        if name not in self.processes:
            names = self.manifest.names()
            if name not in names:
                raise WrongCall(f"there is no peer {name!r}: the peers are {', '.join(names)}")
            self.processes[name] = PeerProcess(name, self.folder)
        return self.processes[name]

    def address(self, name: str) -> str:
        """Where the peer with this name listens."""
        gid, peer = self._numbers(name)
        return self.manifest.groups[gid].addresses[peer]

    def addresses(self, gid: int | None = None) -> dict[str, str]:
        """The addresses by name, of one group or of all."""
        manifest = self.manifest
        return {name: self.address(name) for name in manifest.names(gid)}

    def settings(self, name: str) -> PeerSettings:
        """What the peer's file says."""
        return replace(self.manifest.settings(self.folder, *self._numbers(name)), routes=self.routes.get(name, {}))

    def _numbers(self, name: str) -> tuple[int, int]:
        numbers = split_name(name)
        manifest = self.manifest
        if numbers is None or name not in manifest.names():
            raise WrongCall(f"there is no peer {name!r}: the peers are {', '.join(manifest.names())}")
        return numbers

    def running(self, gid: int | None = None) -> list[str]:
        """The names of the peers whose processes live."""
        return [name for name in self.manifest.names(gid) if self.process(name).is_running()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else starts or stops anything meanwhile. Raises `ClusterError` if somebody does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = take_lock(self.folder / "lock")
        except LockHeld:
            raise ClusterError(f"{self.folder}: another shardkv command starts or stops peers there now") from None
        try:
            yield
        finally:
            os.close(lock)

    # --- making it ---------------------------------------------------------------------------------------------------

    def prepare(self, layout: Layout) -> Manifest:
        """Make the cluster, or finish the making that a crash cut short, or find it made; start nothing. On return
        every peer's directory was made, once, and `cluster.toml` says so. The lock must be held."""
        manifest = read_manifest(self.folder)
        if manifest is None:
            manifest = self._plan(layout)
            write_manifest(self.folder, manifest)
            sync_folder(self.folder.parent)
        if not manifest.local:
            raise ClusterError(f"{self.folder}: a cluster made by `shardkv init`: its peers are run by `shardkv serve`")
        missing = [gid for gid, group in manifest.groups.items() if not group.created]
        for gid in missing:
            self._create_data(manifest, gid)
            manifest = manifest.with_group(gid, replace(manifest.groups[gid], created=True))
        if missing:
            sync_folder(self.folder)
            write_manifest(self.folder, manifest)
        for gid in manifest.groups:
            manifest.write_settings(self.folder, gid, self.routes)
        return manifest

    def _plan(self, layout: Layout) -> Manifest:
        free, needed = shutil.disk_usage(self.folder).free, DISK_RESERVE_BYTES + BALLAST_BYTES
        if free < needed:
            raise ClusterError(
                f"{self.folder}: {free >> 20} MiB are free on its disk; peers take puts only where {needed >> 20} are"
            )
        if any(path.name.startswith("server-") for path in self.folder.iterdir()):
            raise ClusterError(
                f"{self.folder}: there are peers' files and no cluster.toml: put it back, or use another"
            )
        return self._planned(layout)

    def _planned(self, layout: Layout) -> Manifest:
        return layout.local_manifest()

    def _create_data(self, manifest: Manifest, gid: int) -> None:
        """Make the directories of a group that has never run; those that are there already are from a killed `up`."""
        from ctrler.host import create_controller
        from shardkv.host import create_peer

        last_made = "state" if (gid, manifest.store) == (0, "kvsrv") else "log"
        for peer in range(len(manifest.groups[gid].addresses)):
            settings = manifest.settings(self.folder, gid, peer)
            if not (settings.directory / last_made).exists():
                self.tell(f"making {settings.name}")
                (create_peer if gid else create_controller)(settings.spec())

    # --- the whole cluster -------------------------------------------------------------------------------------------

    async def up(self, layout: Layout, limit_s: float = USABLE_S) -> UpReport:
        """Make the cluster unless it is made, start the peers that do not run, and wait until it can be used: every
        group has a leader and the first configuration is published.

        Raises `ClusterError` or `SettingsError` if it does not come to that within `limit_s`; the peers that were
        started are left running. A peer that cannot run where its group can do without is in the report's `troubles`.
        """
        with self.locked():
            manifest = self.prepare(layout)
            report = UpReport()
            gids = [gid for gid, group in manifest.groups.items() if group.active]
            for name in (name for gid in gids for name in manifest.names(gid)):
                self.start_one(name, report)
            async with network(manifest.cluster) as rpc:
                try:
                    with trio.fail_after(limit_s):
                        await self.wait_leaders(rpc, gids, report)
                        await self._publish(rpc, manifest)
                except trio.TooSlowError:
                    why = f"after {limit_s:.0f} s{await self._short_of_space(rpc)}"
                    raise ClusterError(_not_usable(why, report)) from None
        return report

    def start_one(self, name: str, report: UpReport) -> None:
        """Start a peer unless it runs; a peer whose directory is lost is not started."""
        process = self.process(name)
        if process.is_running():
            report.running.append(name)
            return
        directory = self.folder / name
        if not is_there(directory):
            report.troubles[name] = lost_text(name, directory)
            return
        if process.start(self.folder / f"{name}.toml"):
            self.tell(f"starting {name}")
            report.started.append(name)
        else:
            report.running.append(name)

    async def wait_leaders(self, rpc: RpcClient, gids: Sequence[int], report: UpReport | None = None) -> dict[int, str]:
        """Wait until every one of these groups has a leader and what was started listens or has ended; return the
        leaders' names. Raises `ClusterError` if a group cannot have one, as too few of its peers run."""
        report = report or UpReport()
        manifest = self.manifest
        leaders: dict[int, str] = {}
        starting = set(report.started)
        while True:
            self._note_started(report, starting)
            for gid in gids:
                if gid not in leaders and (leader := await self.leader_of(rpc, manifest, gid)) is not None:
                    leaders[gid] = leader
                    self.tell(f"group {gid}: {leader} leads")
                elif gid not in leaders and 2 * len(self.running(gid)) <= len(manifest.groups[gid].addresses):
                    self._note_started(report, starting)
                    raise ClusterError(_not_usable(f"group {gid} has too few peers", report))
            if not starting and len(leaders) == len(gids):
                return leaders
            await trio.sleep(ASK_AGAIN_S)

    def _note_started(self, report: UpReport, starting: set[str]) -> None:
        """Take out of `starting` who listens or has ended; why those ended goes into the report."""
        for name in report.started:
            process = self.process(name)
            if name in starting and process.event("listening") is not None:
                starting.discard(name)
            if name not in report.troubles and not process.is_running():
                report.troubles[name] = f"{name}: {process.last_words().removeprefix(f'{name}: ')}"
                starting.discard(name)

    async def leader_of(self, rpc: RpcClient, manifest: Manifest, gid: int) -> str | None:
        """Who leads the group, as far as its peers say."""
        addresses = dict(zip(manifest.names(gid), manifest.groups[gid].addresses, strict=True))
        statuses = await peer_statuses(rpc, addresses)
        leading = {name: status for name, status in statuses.items() if status.get("role") == "leader"}
        # Of two that think so, the one of the later term.
        return max(leading, key=lambda name: int(leading[name].get("term", 0)), default=None)

    async def leader(self, gid: int, limit_s: float = 10.0) -> str:
        """The name of the group's leader; waits for one. Raises `ClusterError`."""
        manifest = self.manifest
        async with network(manifest.cluster) as rpc:
            with trio.move_on_after(limit_s):
                while (found := await self.leader_of(rpc, manifest, gid)) is None:
                    await trio.sleep(ASK_AGAIN_S)
                return found
        raise ClusterError(f"group {gid} has no leader after {limit_s:.0f} s")

    async def _publish(self, rpc: RpcClient, manifest: Manifest) -> None:
        """Make the first configuration, and take in the groups of the beginning. Done once, finished after a crash."""
        if manifest.published:
            return
        clerk = control(rpc, manifest.controllers)
        groups = {gid: group.addresses for gid, group in manifest.groups.items() if gid and group.active}
        if not manifest.join:
            groups = {min(groups): groups[min(groups)]}
        if (await clerk.query()).num == 0:
            self.tell(
                f"the first configuration: {'groups' if len(groups) > 1 else 'group'} {', '.join(map(str, groups))}"
            )
            await clerk.init(groups)
        write_manifest(self.folder, replace(manifest, published=True))

    async def _short_of_space(self, rpc: RpcClient) -> str:
        """Who takes no puts for want of room, as the end of a sentence; "" if nobody."""
        statuses = await peer_statuses(rpc, self.addresses())
        short = [name for name, status in statuses.items() if status.get("no_space")]
        return f", low on space: {', '.join(short)}" if short else ""

    async def down(self) -> list[str]:
        """End every peer; return the names of those that ran. What was acknowledged is on the disks already."""
        with self.locked():
            names = self.running()
            await self._end(names)
        return names

    async def kill_all(self) -> None:
        """`kill -9` for every peer, without asking anybody, and without the lock: for a clean-up that must work."""
        for process in list(self.processes.values()):
            process.signal(signal.SIGKILL)
        for process in list(self.processes.values()):
            await process.wait_ended(END_S)

    async def _end(self, names: Sequence[str]) -> None:
        """End peers, all at once: asked, then by SIGTERM, then by SIGKILL."""
        if not names:
            return
        addresses = {name: self.address(name) for name in names}
        cluster = self.manifest.cluster
        left: list[str] = []

        async def end(name: str, rpc: RpcClient) -> None:
            process = self.process(name)
            process.signal(signal.SIGCONT)
            if await shut_down(rpc, addresses[name]) and await process.wait_ended(END_S):
                self.tell(f"{name} ended")
                return
            for number in (signal.SIGTERM, signal.SIGKILL):
                process.signal(number)
                if await process.wait_ended(END_S):
                    self.tell(f"{name} ended by {number.name}")
                    return
            left.append(name)

        async with network(cluster) as rpc, trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(end, name, rpc)
        if left:
            raise ProcessError(f"still there {END_S:.0f} s after kill -9: {', '.join(sorted(left))}")

    async def status(self) -> list[dict[str, Any]]:
        """How every peer is: name, gid, peer, address, state (running, paused, dead, silent), pid, and, of one that
        answers, the keys of its STATUS reply."""
        manifest = self.manifest
        addresses = self.addresses()
        paused = {name for name in addresses if manifest.local and self.process(name).is_paused()}
        async with network(manifest.cluster) as rpc:
            answers = await peer_statuses(rpc, {name: at for name, at in addresses.items() if name not in paused}, 1.0)
        found = []
        for name, address in addresses.items():
            gid, peer = self._numbers(name)
            pid = self.process(name).pid() if manifest.local else None
            state = "running" if name in answers else "paused" if name in paused else "silent"
            if manifest.local and pid is None:
                state = "dead" if manifest.groups[gid].active else "removed"
            own = {"name": name, "gid": gid, "peer": peer, "address": address, "state": state, "pid": pid}
            found.append({**answers.get(name, {}), **own})
        return found

    # --- one peer ----------------------------------------------------------------------------------------------------

    async def kill(self, name: str) -> None:
        """`kill -9` one peer."""
        await self._running(name).kill()

    async def stop(self, name: str) -> None:
        """Have one peer hand over leadership and end."""
        self._running(name)
        await self._end([name])

    async def start(self, name: str, limit_s: float = USABLE_S) -> None:
        """Start one peer, and wait until it listens."""
        with self.locked():
            gid, _ = self._numbers(name)
            if not self.manifest.groups[gid].created:
                raise ClusterError(f"{name} is not made yet: run `shardkv up`")
            report = UpReport()
            self.start_one(name, report)
            if report.running:
                raise ClusterError(f"{name} runs already")
            if report.troubles:
                raise ClusterError(report.troubles[name])
            await self.process(name).wait_event("listening", limit_s)

    def pause(self, name: str) -> None:
        """Stop one peer's process where it is (SIGSTOP)."""
        self._running(name).signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let one peer's process go on (SIGCONT)."""
        self._running(name).signal(signal.SIGCONT)

    def _running(self, name: str) -> PeerProcess:
        process = self.process(name)
        if not process.is_running():
            raise ClusterError(f"{name} does not run")
        return process

    # --- one group ---------------------------------------------------------------------------------------------------

    async def add_group(self, gid: int, replicas: int, limit_s: float = USABLE_S) -> None:
        """Start a group's peers, made now if there never was such a group, and let it join. May be repeated."""
        with self.locked():
            manifest = self.manifest
            if not manifest.local or not manifest.published:
                raise ClusterError(f"{self.folder}: not a running cluster on this machine: run `shardkv up`")
            if gid not in manifest.groups:
                Layout(replicas=replicas)
                used = {parse_address(a)[1] for group in manifest.groups.values() for a in group.addresses}
                ports = free_ports(replicas, frozenset(used))
                manifest = manifest.with_group(gid, GroupSpec.fresh(tuple(f"127.0.0.1:{port}" for port in ports)))
            manifest = manifest.with_group(gid, replace(manifest.groups[gid], active=True))
            write_manifest(self.folder, manifest)
            manifest = self.prepare(Layout())
            report = UpReport()
            for name in manifest.names(gid):
                self.start_one(name, report)
            async with network(manifest.cluster) as rpc:
                try:
                    with trio.fail_after(limit_s):
                        await self.wait_leaders(rpc, [gid], report)
                        clerk = control(rpc, manifest.controllers)
                        if gid not in (await clerk.query()).groups:
                            self.tell(f"group {gid} joins")
                            await clerk.join({gid: manifest.groups[gid].addresses})
                except trio.TooSlowError:
                    raise ClusterError(f"group {gid} has not joined after {limit_s:.0f} s") from None

    async def remove_group(self, gid: int, limit_s: float = USABLE_S) -> None:
        """Let a group leave, and end its peers. Its directories stay, for it may be added again. May be repeated."""
        with self.locked():
            manifest = self.manifest
            if gid == 0 or gid not in manifest.groups:
                known = ", ".join(str(known) for known in manifest.groups if known)
                raise WrongCall(f"there is no shard group {gid}: there are {known}")
            async with network(manifest.cluster) as rpc:
                try:
                    with trio.fail_after(limit_s):
                        clerk = control(rpc, manifest.controllers)
                        groups = (await clerk.query()).groups
                        if set(groups) == {gid}:
                            raise ClusterError(f"group {gid} is the only one: its shards have nowhere to go")
                        if gid in groups:
                            self.tell(f"group {gid} leaves")
                            await clerk.leave([gid])
                except trio.TooSlowError:
                    raise ClusterError(f"group {gid} has not left after {limit_s:.0f} s") from None
            write_manifest(self.folder, manifest.with_group(gid, replace(manifest.groups[gid], active=False)))
            await self._end(self.running(gid))

    async def peer(self, name: str) -> dict[str, Any] | None:
        """How one peer is, None if it does not answer."""
        async with network(self.manifest.cluster) as rpc:
            return await peer_status(rpc, self.address(name))


def _not_usable(why: str, report: UpReport) -> str:
    return "; ".join([f"the cluster cannot be used: {why}", *report.troubles.values()])
