"""wrk, the load generator in C, against etcd's HTTP/JSON gateway: its script, made for a workload, and what it prints. Pure.

The script draws keys and operations as ours do (`workload.draws`), and prints at its end, as the only line of that kind,
how many requests ended when, as JSON.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tools.bench.figures import Histogram
from tools.bench.workload import Workload, draws, key_of, value_of

MARK = "shardkv-bench "
"""What the line of the results begins with."""

_SCRIPT = """
local keys = {{{keys}}}
local draws = {{{draws}}}
local gets = {{{gets}}}
local value = "{value}"
local at = {start}

local function put(key)
  return wrk.format("POST", "/v3/kv/put", nil, '{{"key":"' .. key .. '","value":"' .. value .. '"}}')
end

local function get(key)
  return wrk.format("POST", "/v3/kv/range", nil, '{{"key":"' .. key .. '"}}')
end

function request()
  at = at % #draws + 1
  local key = keys[draws[at]]
  if gets[at] == 1 then return get(key) end
  return put(key)
end

function done(summary, latency, requests)
  local rows = {{}}
  for i = 1, #latency do
    local time, count = latency(i)
    rows[#rows + 1] = string.format("[%d,%d]", time, count)
  end
  local errors = summary.errors
  io.write(string.format('{mark}{{"duration_us":%d,"requests":%d,"status":%d,"socket":%d,"latencies":[%s]}}\\n',
    summary.duration, summary.requests, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, table.concat(rows, ",")))
end
"""


class BadOutput(Exception):
    """wrk did not print what the script prints."""


@dataclass(frozen=True)
class WrkResult:
    """What one run of wrk measured: `failed` answers were no 2xx, `broken` got none."""

    latencies: Histogram
    seconds: float
    failed: int
    broken: int


def script(workload: Workload, rng: Random) -> str:
    """The Lua script for a workload."""
    picked = draws(workload.choice, workload.keys, rng)
    keys = ",".join(f'"{text(key_of(number, workload.value_bytes))}"' for number in range(workload.keys))
    return _SCRIPT.format(
        keys=keys,
        draws=",".join(str(number + 1) for number in picked),
        gets=",".join(str(int(rng.random() < workload.reads)) for _ in picked),
        value=text(value_of(rng, workload.value_bytes)),
        start=rng.randrange(len(picked)),
        mark=MARK,
    )


def text(data: bytes) -> str:
    """Bytes as the gateway wants them."""
    return b64encode(data).decode()


def read_output(output: str) -> WrkResult:
    """What wrk printed. Raises `BadOutput`."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise BadOutput(f"wrk printed no results: {output.strip()[-200:]!r}")
    try:
        found = json.loads(lines[0].removeprefix(MARK))
        latencies = histogram(found["latencies"])
        seconds = found["duration_us"] / 1e6
        failed, broken = int(found["status"]), int(found["socket"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadOutput(f"wrk printed results of another kind: {lines[0]:.200}") from error
    return WrkResult(latencies, seconds, failed, broken)


def histogram(rows: Sequence[Sequence[int]]) -> Histogram:
    """From [microseconds, how many] each."""
    found = Histogram()
    for time_us, count in rows:
        (bucket,) = Histogram.of([time_us / 1e6]).counts
        found.counts[bucket] = found.counts.get(bucket, 0) + count
    return found


def puts_of(keys: Sequence[bytes], value: bytes, most_bytes: int, most: int) -> list[str]:
    """Bodies of transactions that put all these keys, each with at most so many of them and so many bytes."""
    each = max(1, min(most, most_bytes // max(1, math.ceil(len(value) * 4 / 3))))
    encoded = text(value)
    return [
        json.dumps({"success": [{"requestPut": {"key": text(key), "value": encoded}} for key in keys[at : at + each]]})
        for at in range(0, len(keys), each)
    ]
