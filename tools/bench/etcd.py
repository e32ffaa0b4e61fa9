"""etcd as a system to measure: three members on the loopback in a temporary directory, driven by wrk through its gateway.

Its defaults, but for the quota of its database (8 GiB: large values fill the default one). Requests go to the leader, which
spares it the forwarding. Both programs are Debian's: etcd-server and wrk.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from typing import Any

import trio

from tools.bench.figures import Histogram
from tools.bench.generator import BenchError
from tools.bench.system import LOAD, Sample
from tools.bench.usage import Usage, cpu_between, usages
from tools.bench.workload import Workload, key_of, value_of
from tools.bench.wrk import BadOutput, WrkResult, puts_of, read_output, script
from tools.processes import free_ports

MEMBERS = 3
QUOTA_BYTES = 8 << 30
READY_S = 30.0
CALL_S = 10.0
TXN_PUTS_MAX = 128
TXN_BYTES_MAX = 1 << 20
FAILED_SHARE_MAX = 0.01
PROGRAMS = {"etcd": "etcd-server", "wrk": "wrk"}
"""The programs, and the Debian packages that have them."""

# Barriers: one of the write-ahead log, two of each commit of the database.
_SYNCS = {"etcd_disk_wal_fsync_duration_seconds_count": 1, "etcd_disk_backend_commit_duration_seconds_count": 2}


def need_programs() -> None:
    """Raises `BenchError` that names what is not installed."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise BenchError(f"{program} is not installed: Debian's package {package} has it")


class Member:
    """One etcd process."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.port = port
        self.process = process

    def post(self, path: str, body: str) -> dict[str, Any]:
        """Call its gateway. Raises `BenchError`."""
        status, answer = self._call("POST", path, body)
        if status != 200:
            raise BenchError(f"{self.name} answered {path} with {status}: {answer[:200]}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def syncs(self) -> int:
        """How many disk barriers it has made so far."""
        _, answer = self._call("GET", "/metrics", "")
        return syncs_of(answer)

    def _call(self, method: str, path: str, body: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=CALL_S)
        try:
            connection.request(method, path, body or None)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise BenchError(f"{self.name}: {error}") from error
        finally:
            connection.close()


def syncs_of(metrics: str) -> int:
    """The disk barriers in a text of /metrics."""
    total = 0.0
    for line in metrics.splitlines():
        name, _, value = line.partition(" ")
        if name in _SYNCS:
            total += _SYNCS[name] * float(value)
    return int(total)


class EtcdSystem:
    """Three members that run. Made by `etcd_system`."""

    name = "etcd"
    interface = "JSON gateway, wrk"

    def __init__(self, folder: Path, members: list[Member]) -> None:
        self._folder = folder
        self._members = members

    def about(self) -> Mapping[str, Any]:
        """See `System.about`."""
        said = subprocess.run(["etcd", "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout.split()
        return {"version": said[2] if len(said) > 2 else "unknown", "members": MEMBERS, "quota_bytes": QUOTA_BYTES}

    async def leader(self) -> Member:
        """The member that leads; waits for one that can write."""
        with trio.move_on_after(READY_S):
            while True:
                with suppress(BenchError):
                    return await trio.to_thread.run_sync(self._find_leader)
                await trio.sleep(0.05)
        raise BenchError(f"etcd has no leader after {READY_S:.0f} s: {last_words(self._folder)}")

    def _find_leader(self) -> Member:
        for member in self._members:
            status = member.post("/v3/maintenance/status", "{}")
            if status["header"]["member_id"] == status.get("leader"):
                member.post("/v3/kv/put", json.dumps({"key": "YQ==", "value": "YQ=="}))
                return member
        raise BenchError("etcd has no leader")

    async def fill(self, workload: Workload) -> None:
        """See `System.fill`."""
        leader = await self.leader()
        keys = [key_of(number, workload.value_bytes) for number in range(workload.keys)]
        value = value_of(Random(1), workload.value_bytes)
        for body in puts_of(keys, value, TXN_BYTES_MAX, TXN_PUTS_MAX):
            await trio.to_thread.run_sync(leader.post, "/v3/kv/txn", body)

    async def measure(self, workload: Workload, warm_up_s: float, measure_s: float, seed: int) -> Sample:
        """See `System.measure`."""
        leader = await self.leader()
        file = self._folder / "load.lua"
        file.write_text(script(workload, Random(seed)), encoding="utf-8")
        await self._wrk(leader, file, workload.clients, warm_up_s)
        before, syncs = self._used(), await trio.to_thread.run_sync(self._syncs)
        result, load_cpu_s = await self._wrk(leader, file, workload.clients, measure_s)
        cpu_s = cpu_between(before, self._used())
        roles = {m.name: "leader" if m is leader else "follower" for m in self._members}
        return Sample(
            result.latencies,
            Histogram(),
            result.seconds,
            {**cpu_s, LOAD: load_cpu_s},
            roles,
            syncs=await trio.to_thread.run_sync(self._syncs) - syncs,
            repeated=result.failed + result.broken,
        )

    def _syncs(self) -> int:
        return sum(member.syncs() for member in self._members)

    def _used(self) -> dict[str, Usage]:
        return usages({member.name: member.process.pid for member in self._members})

    async def _wrk(self, leader: Member, file: Path, clients: int, seconds: float) -> tuple[WrkResult, float]:
        """Run wrk for so long (it takes whole seconds, at least one); what it measured, and its CPU seconds."""
        command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(file)]
        command.append(f"http://127.0.0.1:{leader.port}")
        before = _children_cpu_s()
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        try:
            result = read_output((done.stdout + done.stderr).decode(errors="replace"))
        except BadOutput as error:
            raise BenchError(str(error)) from error
        if result.failed + result.broken > FAILED_SHARE_MAX * result.latencies.total:
            raise BenchError(f"etcd failed {result.failed + result.broken} of {result.latencies.total} requests")
        return result, _children_cpu_s() - before

    def pause(self) -> None:
        """See `System.pause`."""
        for member in self._members:
            member.process.send_signal(signal.SIGSTOP)

    async def resume(self) -> None:
        """See `System.resume`."""
        for member in self._members:
            member.process.send_signal(signal.SIGCONT)
        await self.leader()


def _children_cpu_s() -> float:
    """CPU seconds of the processes that this one has waited for: between two looks that is wrk, and nobody else ends."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def last_words(folder: Path) -> str:
    """The last line of a member's log that says anything."""
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1][-200:]
    return "its logs are empty"


@asynccontextmanager
async def etcd_system(folder: Path) -> AsyncIterator[EtcdSystem]:
    """Three fresh members; ended, whatever happens. Raises `BenchError`, also for programs that are not there."""
    need_programs()
    folder.mkdir(parents=True)
    ports = free_ports(2 * MEMBERS)
    peers = {f"etcd-{number}": f"http://127.0.0.1:{port}" for number, port in enumerate(ports[MEMBERS:])}
    members: list[Member] = []
    try:
        for (name, peer), port in zip(peers.items(), ports[:MEMBERS], strict=True):
            process = _start(folder, name, peer, port, ",".join(f"{n}={url}" for n, url in peers.items()))
            members.append(Member(name, port, process))
        system = EtcdSystem(folder, members)
        await system.leader()
        yield system
    finally:
        for member in members:
            member.process.kill()
        for member in members:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial(member.process.wait, timeout=10))


def _start(folder: Path, name: str, peer: str, port: int, everybody: str) -> subprocess.Popen[bytes]:
    client = f"http://127.0.0.1:{port}"
    options = {
        "name": name,
        "data-dir": str(folder / name),
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "initial-cluster": everybody,
        "initial-cluster-state": "new",
        "quota-backend-bytes": str(QUOTA_BYTES),
        "log-level": "error",
    }
    with (folder / f"{name}.log").open("wb") as log:
        words = ["etcd", *(f"--{option}={value}" for option, value in options.items())]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
