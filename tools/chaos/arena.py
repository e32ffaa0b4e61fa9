"""The cluster that is tormented: its processes, its network and its disks, and what the faults do to them.

Everything here is asked for by name. The arena remembers which peers a fault may have killed; any other that ends is a
finding, and one that ends by a defect of its own (exit code 1) always is.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from raftlog.net.base import CallFailed, RpcClient
from shardkv.errors import Refused
from tools import admin
from tools.chaos.places import ForgetfulDisk, Place, SmallDisk
from tools.cluster import LocalCluster
from tools.layout import Layout
from tools.manifest import Manifest, split_name
from tools.processes import ProcessError
from tools.proxy import Proxy
from tools.proxy.local import behind_proxy

CONVERGED_S = 40.0
"""How long the cluster may take until all of it works again after the last fault has ended."""
STARTED_S = 30.0
ASK_S = 0.05
DEFECT, STORAGE = 1, 3
"""The exit codes of a peer that ends by a bug of its own, or since it can't use its disk."""
STALLED = "took longer than"
"""In the last words of a peer whose disk hung, which a crowded machine's may do by itself."""


class NotConverged(Exception):
    """The cluster did not come back after a fault; one line."""


class ChaosCluster(LocalCluster):
    """A cluster whose peers' directories are made in the places that `place_of` gives."""

    def __init__(self, folder: Path, place_of: Callable[[str, int, int], Place]) -> None:
        super().__init__(folder)
        self.places: dict[str, Place] = {}
        self._place_of = place_of

    def sizes(self, layout: Layout) -> dict[int, int]:
        """How many peers each group will have."""
        return {0: layout.ctrl_peers, **dict.fromkeys(range(1, layout.groups + 1), layout.replicas)}

    async def mount(self, layout: Layout) -> None:
        """Mount the place of every peer that the layout will have."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for gid, size in self.sizes(layout).items():
            for peer in range(size):
                name = f"server-{gid}-{peer}"
                place = self.places[name] = self._place_of(name, peer, size)
                await place.mount()

    async def unmount(self) -> None:
        """Turn every place into a plain directory."""
        for place in self.places.values():
            await place.unmount()

    def _plan(self, layout: Layout) -> Manifest:
        return self._planned(layout)  # the directories are there already: they are places


@dataclass
class Arena:
    """A running cluster. `dead` are the peers that a fault may have killed; `tell` hears what happens, a line each."""

    cluster: ChaosCluster
    proxy: Proxy
    rpc: RpcClient
    layout: Layout
    rng: Random
    tell: Callable[[str], None] = lambda line: None
    findings: list[str] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """Figures that faults measure, by what they are of, in seconds."""

    # --- who is there ------------------------------------------------------------------------------------------------

    @property
    def gids(self) -> list[int]:
        """The groups, the controllers' (0) among them."""
        return sorted(self.cluster.manifest.groups)

    def names(self, gid: int | None = None) -> list[str]:
        """The peers of a group, or of all."""
        return self.cluster.manifest.names(gid)

    def busy(self) -> list[str]:
        """The peers that run and write often: of shard groups, where there are some."""
        running = [name for name in self.names() if self.cluster.process(name).is_running()]
        return [name for name in running if not name.startswith("server-0-")] or running

    def placed(self, kind: type[Place], gid: int | None = None) -> list[str]:
        """The peers whose data lies on such a place."""
        return [name for name in self.names(gid) if isinstance(self.cluster.places.get(name), kind)]

    def measured(self, what: str, value_s: float) -> None:
        """Keep a figure."""
        self.metrics.setdefault(what, []).append(value_s)

    async def leader(self, gid: int, *, but: str = "") -> str | None:
        """Who leads the group now, None if nobody does or says so; `but` is not asked."""
        addresses = {name: address for name, address in self.cluster.addresses(gid).items() if name != but}
        statuses = await admin.peer_statuses(self.rpc, addresses, 0.3)
        leading = {name: status for name, status in statuses.items() if status.get("role") == "leader"}
        return max(leading, key=lambda name: int(leading[name].get("term", 0)), default=None)

    async def some_leader(self, gid: int, limit_s: float = 5.0) -> str:
        """Who leads; after `limit_s` without a leader, any peer of the group."""
        with trio.move_on_after(limit_s):
            while (found := await self.leader(gid)) is None:
                await trio.sleep(ASK_S)
            return found
        return self.rng.choice(self.names(gid))

    # --- processes ---------------------------------------------------------------------------------------------------

    async def kill(self, names: Iterable[str]) -> None:
        """`kill -9`, all at once, and wait until they are gone."""
        names = list(names)
        self.dead.update(names)
        for name in names:
            self.cluster.process(name).signal(signal.SIGKILL)
        for name in names:
            if not await self.cluster.process(name).wait_ended(10.0):
                raise ProcessError(f"{name}: still there 10 s after kill -9")

    async def start(self, names: Iterable[str]) -> None:
        """Start those that do not run, all at once, and wait until each listens. Raises `ProcessError`."""
        started = []
        for name in names:
            process = self.cluster.process(name)
            if not process.is_running() and process.start(self.cluster.folder / f"{name}.toml"):
                started.append(process)
        for process in started:
            await process.wait_event("listening", STARTED_S)
        self.dead.difference_update(process.name for process in started)

    async def start_dead(self) -> None:
        """Start every peer that a fault has killed; what else has ended becomes a finding, and is started too."""
        down = [name for name in self.names() if not self.cluster.process(name).is_running()]
        self._look_at(down)
        for name in down:
            if isinstance(place := self.cluster.places.get(name), SmallDisk):
                place.empty()
        await self.start(down)

    def _look_at(self, down: Sequence[str]) -> None:
        for name in down:
            process = self.cluster.process(name)
            code, words = process.exit_code(), process.last_words()
            if code == STORAGE and STALLED in words:
                self.measured(
                    "peers ended since a disk hung", 1
                )  # what they have to do, also when it is nobody's fault
            elif code == DEFECT or name not in self.dead:
                self.findings.append(f"{name} ended by itself, exit code {code}: {words}")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal."""
        self.cluster.process(name).signal(number)

    async def arm(self, name: str, *specs: str) -> bool:
        """Arm failpoints of a peer; whether it took them."""
        try:
            await admin.failpoints(self.rpc, self.cluster.address(name), specs)
        except (CallFailed, Refused):
            return False
        return True

    async def reached(self, name: str, place: str, timeout_s: float = 2.0) -> bool:
        """Whether a peer came to an armed failpoint; True if it does not say."""
        try:
            rows = await admin.failpoints(self.rpc, self.cluster.address(name), [], timeout_s)
        except (CallFailed, Refused):
            return True
        return any(row[0] == place and row[3] > 0 for row in rows)

    async def disarm(self, name: str, *places: str) -> None:
        """Disarm failpoints of a peer; one that does not confirm it is killed, or it might strike much later."""
        if self.cluster.process(name).is_running() and not await self.arm(name, *(f"{place}=off" for place in places)):
            await self.kill([name])

    async def wait_dead(self, name: str, limit_s: float) -> bool:
        """Wait until a peer has ended; whether it came to that. It is expected to."""
        self.dead.add(name)
        return await self.cluster.process(name).wait_ended(limit_s)

    async def converge(self, limit_s: float = CONVERGED_S) -> float:
        """Wait until every peer runs and answers, and every group has a leader whom its peers follow; how long that took.
        Raises `NotConverged`."""
        begun = trio.current_time()
        waits_for = "nothing"
        with trio.move_on_after(limit_s):
            while True:
                await self.start_dead()
                waits_for = await self._waits_for()
                if not waits_for:
                    self.dead.clear()
                    return trio.current_time() - begun
                await trio.sleep(ASK_S)
        raise NotConverged(f"not as it was {limit_s:.0f} s after the faults ended: {waits_for}")

    async def _waits_for(self) -> str:
        statuses = await admin.peer_statuses(self.rpc, self.cluster.addresses(), 1.0)
        if silent := [name for name in self.names() if name not in statuses]:
            return f"no answer from {', '.join(silent)}"
        for gid in self.gids:
            members = {name: statuses[name] for name in self.names(gid)}
            leaders = {status.get("leader") for status in members.values()}
            terms = {status.get("term") for status in members.values()}
            if len(leaders) != 1 or None in leaders or len(terms) != 1:
                return f"group {gid} has no leader that all its peers follow"
            if low := [name for name, status in members.items() if status.get("no_space")]:
                return f"{', '.join(low)} still low on space"
        return ""

    # --- directories -------------------------------------------------------------------------------------------------

    def directories(self) -> list[Path]:
        """The data of every peer."""
        return [self.cluster.folder / name for name in self.names()]


Make = Callable[[Path, Callable[[str, int, int], Place]], ChaosCluster]


@asynccontextmanager
async def open_arena(
    folder: Path,
    layout: Layout,
    rng: Random,
    make: Make = ChaosCluster,
    disks: tuple[type[Place], ...] | None = None,
) -> AsyncIterator[Arena]:
    """A cluster of this layout in an empty folder, behind a proxy, with failpoints, its peers on `disks` in turn, by default
    plain, small and forgetful ones: it is up inside the block. At the end its processes are killed and its directories are
    plain ones."""
    offset = rng.randrange(3)
    here: list[type[Place]] = [Place, *(kind for kind in (SmallDisk, ForgetfulDisk) if not kind.missing())]

    def place_of(name: str, peer: int, size: int) -> Place:
        kinds = disks or (here if size > 1 else [Place])
        return kinds[(peer + offset) % len(kinds)](folder / name)

    cluster = make(folder, place_of)
    try:
        await cluster.mount(layout)
        async with AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(behind_proxy(cluster, layout, Random(rng.getrandbits(32))))
            rpc = await stack.enter_async_context(admin.network(cluster.manifest.cluster))
            _prepare_environments(cluster)
            try:
                await cluster.up(layout)
                yield Arena(cluster, proxy, rpc, layout, rng)
            finally:
                with trio.CancelScope(shield=True):
                    await cluster.kill_all()
    finally:
        with trio.CancelScope(shield=True):
            await cluster.unmount()


def _prepare_environments(cluster: ChaosCluster) -> None:
    """Failpoints for all peers; a wall clock of its own for the first peer of each group."""
    for name in cluster.manifest.names():
        process = cluster.process(name)
        process.environment["SHARDKV_FAILPOINTS"] = ""
        if has_own_clock(name):
            set_clock(cluster.folder, name, 0)
            clock = str(clock_file(cluster.folder, name))
            process.program = ("-m", "tools.chaos.clocked_peer", clock, *process.program[1:])


def has_own_clock(name: str) -> bool:
    """Whether a peer's wall clock can be set: the first peer's of each group."""
    numbers = split_name(name)
    return numbers is not None and numbers[1] == 0


def clock_file(folder: Path, name: str) -> Path:
    """What the peer reads (see `clocked_peer`)."""
    return folder / "run" / f"{name}.clock"


def set_clock(folder: Path, name: str, offset_s: int) -> None:
    """A peer's wall clock is so far ahead of the machine's from now on."""
    path = clock_file(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(f"{offset_s:+d}\n", encoding="ascii")
    beside.replace(path)
