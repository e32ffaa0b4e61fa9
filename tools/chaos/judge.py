"""What the peers left on their disks, looked at by the inspector: every directory verified, every group's logs compared."""

from __future__ import annotations

import json
import subprocess
import sys

from tools.cluster import LocalCluster
from tools.inspect import reader
from tools.processes import child_environment


def judge_directories(cluster: LocalCluster) -> tuple[str, list[str]]:
    """What was looked at, in words, and what is wrong. The peers should have ended. Blocks."""
    manifest = cluster.manifest
    directories = [cluster.folder / name for name in manifest.names()]
    wrong = [
        f"inspect verify: {place}: {finding}"
        for place, findings in reader.findings(directories).items()
        for finding in findings
    ]
    entries = 0
    for gid in manifest.groups:
        members = [str(cluster.folder / name) for name in manifest.names(gid)]
        if len(members) > 1:
            found, text = _compared(gid, members)
            entries += found
            wrong += text
    return (
        f"{len(directories)} directories verified, {entries} log entries of {len(manifest.groups)} groups compared",
        wrong,
    )


def _compared(gid: int, members: list[str]) -> tuple[int, list[str]]:
    """The logs of one group by `inspect diff`: how many entries, and what is wrong."""
    command = [sys.executable, "-P", "-m", "tools.cli.main", "inspect", "diff", "--group", str(gid), "--json", *members]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
    lines = done.stdout.splitlines()
    if not lines:
        return 0, [f"inspect diff: group {gid}: {done.stderr.strip() or f'exit code {done.returncode}'}"]
    last = json.loads(lines[-1])
    bad = [json.loads(line) for line in lines[:-1] if '"fatal": true' in line]
    return int(last.get("entries", 0)), [f"inspect diff: group {gid}: {found}" for found in bad]
