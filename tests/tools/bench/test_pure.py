"""What a benchmark computes from what it saw: quantiles, loads, what others print."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tools.bench.etcd import syncs_of
from tools.bench.figures import Histogram, median, quantile, spread
from tools.bench.kv import doubts
from tools.bench.machine import file_system_of, warnings
from tools.bench.plans import Plan, Point, chosen, full, quick, standard
from tools.bench.report import over_rounds, tidy
from tools.bench.system import LOAD, Sample
from tools.bench.usage import parsed
from tools.bench.workload import Job, Workload, draws
from tools.bench.wrk import MARK, BadOutput, puts_of, read_output, script

# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_histogram_knows_every_quantile_to_within_one_percent() -> None:
    rng = Random(7)
    times = [rng.lognormvariate(-7, 2) for _ in range(20_000)]
    found = Histogram.of(times)
    assert found.total == len(times)
    for share in (0.001, 0.5, 0.9, 0.99, 0.999, 1.0):
        assert found.quantile(share) == pytest.approx(quantile(times, share), rel=0.01)


def test_histograms_of_parts_are_the_histogram_of_all() -> None:
    times = [Random(number).random() for number in range(100)]
    parts = Histogram.of(times[:30])
    parts.add(Histogram.read(json.loads(json.dumps(Histogram.of(times[30:]).counts))))
    assert parts == Histogram.of(times)


def test_without_values_there_is_no_quantile_median_or_spread() -> None:
    assert all(math.isnan(found) for found in (quantile([], 0.5), median([]), spread([]), Histogram().quantile(0.5)))


def test_median_and_spread() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert spread([90.0, 100.0, 120.0]) == pytest.approx(0.3)
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0


def test_figures_over_rounds_leave_out_what_a_round_has_not() -> None:
    found = over_rounds([{"a": 1.0, "b": None}, {"a": 3.0, "b": 2.0}])
    assert found == {"a": {"median": 2.0, "spread": 1.0, "rounds": [1.0, 3.0]}}


def test_json_has_no_more_digits_than_are_known_and_no_nan() -> None:
    assert tidy({"a": [1.23456789, math.nan], "b": (7, "x")}) == {"a": [1.2346, None], "b": [7, "x"]}


def test_cpu_is_told_per_operation_and_role() -> None:
    cpu = {"server-1-0": 0.5, "server-1-1": 0.2, "server-1-2": 0.2, "server-0-0": 9.0, LOAD: 0.1}
    roles = {"server-1-0": "leader", "server-1-1": "follower", "server-1-2": "follower"}
    sample = Sample(Histogram.of([0.001] * 600), Histogram.of([0.002] * 400), 2.0, cpu, roles, requests=100, syncs=50)
    found = sample.figures()
    assert (found["ops_per_s"], found["rpcs_per_op"], found["syncs_per_op"]) == (500.0, 0.1, 0.05)
    assert [round(found[f"{role}_cpu_us"] or 0) for role in ("leader", "follower", "load")] == [500, 400, 100]
    assert found["messages_per_op"] is None
    assert found["load_busy"] == pytest.approx(0.05)
    assert found["p50_ms"] == pytest.approx(1.0, rel=0.01) and found["p99_ms"] == pytest.approx(2.0, rel=0.01)


# --- the machine -----------------------------------------------------------------------------------------------------


def test_cpu_time_and_memory_are_read_whatever_the_process_is_called() -> None:
    stat = "17 (a ) b (c) S 1 17 17 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 3 0 100 0 0"
    found = parsed(stat, "Name:\ta ) b (c\nRssAnon:\t    1000 kB\nRssFile:\t 7 kB\n")
    assert (found.cpu_s, found.memory_bytes) == (pytest.approx(3.0), 1_024_000)
    assert parsed(stat, "Name:\tzombie\n").memory_bytes == 0


def test_the_file_system_is_that_of_the_deepest_mount_above() -> None:
    mounts = ["/dev/a / ext4 rw 0 0", "tmpfs /tmp tmpfs rw 0 0", "/dev/b /tmp/with\\040space xfs rw 0 0", "broken"]
    assert file_system_of(Path("/var/lib"), mounts) == "ext4"
    assert file_system_of(Path("/tmp/x"), mounts) == "tmpfs"
    assert file_system_of(Path("/tmp/with space/x"), mounts) == "xfs"
    assert file_system_of(Path("/tmpfile"), mounts) == "ext4"


def test_figures_from_memory_or_from_a_busy_machine_carry_a_warning() -> None:
    assert warnings({"file_system": "ext4", "cores": 2, "load_average": 0.4}) == []
    assert ["tmpfs" in line for line in warnings({"file_system": "tmpfs", "cores": 2, "load_average": 3.5})] == [
        True,
        False,
    ]


# --- loads -----------------------------------------------------------------------------------------------------------


def test_uniform_keys_are_all_drawn_and_zipf_keys_by_their_rank() -> None:
    uniform = Counter(draws("uniform", 100, Random(1)))
    assert len(uniform) == 100 and max(uniform.values()) < 3 * min(uniform.values())
    zipf = Counter(draws("zipf", 1000, Random(1)))
    (_, first), (_, second) = zipf.most_common(2)
    assert 1.5 < first / second < 2.7
    assert all(0 <= key < 1000 for key in zipf)


def test_large_values_have_fewer_keys() -> None:
    assert Workload(value_bytes=128).keys == 10_000
    assert Workload(value_bytes=65_536).keys == 1024
    assert Workload(value_bytes=1 << 20).keys == 64


def test_a_job_is_read_as_it_was_written() -> None:
    job = Job(("127.0.0.1:1",), Workload("95/5", 8, 16, "zipf", "clerk", 0), 0.5, 2.0, 7, fill=(3, 9))
    assert Job.read(json.loads(json.dumps(job.to_json()))) == job


def test_the_default_varies_one_factor_at_a_time() -> None:
    base = Point(Workload())
    for point in standard().points:
        load = point.workload
        changed = [load.clients != 64, load.value_bytes != 128, load.choice != "uniform", load.connections != 1]
        special = load.driver == "clerk" or point.lease_reads
        assert sum([*changed, point.groups != base.groups]) <= 1 or special


def test_the_forms_take_as_long_as_they_say() -> None:
    assert quick().seconds(1) < 120
    assert standard().seconds(1) < 600 and standard().seconds(2) < 900
    assert len(full().points) > len(standard().points)
    for plan in (quick(), standard(), full()):
        assert len(set(plan.points)) == len(plan.points)


def test_given_lists_are_combined_and_the_rest_is_the_base() -> None:
    plan = chosen(Plan((Point(Workload()),)), clients=(1, 8), operations=("get",), groups=(1, 2))
    assert [(p.workload.operation, p.workload.clients, p.groups) for p in plan.points] == [
        ("get", 1, 1),
        ("get", 8, 1),
        ("get", 1, 2),
        ("get", 8, 2),
    ]
    assert chosen(plan) is plan


def test_a_load_generator_without_time_left_is_not_passed_over() -> None:
    def result(busy: float, repeated: float) -> dict[str, Any]:
        figures = over_rounds([{"load_busy": busy, "repeated": repeated}, {"load_busy": busy, "repeated": 0.0}])
        return {"point": "put", "system": "shardkv", "figures": figures}

    assert doubts([result(0.5, 0)]) == []
    (busy,) = doubts([result(0.97, 0)])
    assert "97 % of a core" in busy and "--generators" in busy
    (repeated,) = doubts([result(0.1, 3)])
    assert "3 requests were sent again" in repeated


# --- wrk and etcd ----------------------------------------------------------------------------------------------------

OUTPUT = """Running 1s test @ http://127.0.0.1:2379
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
{line}
Requests/sec:   1500.00
"""
LINE = MARK + '{"duration_us":2000000,"requests":3,"status":1,"socket":2,"latencies":[[1000,2],[4000,1]]}'


def test_what_wrk_prints_is_read() -> None:
    found = read_output(OUTPUT.format(line=LINE))
    assert (found.seconds, found.failed, found.broken, found.latencies.total) == (2.0, 1, 2, 3)
    assert found.latencies.quantile(0.5) == pytest.approx(0.001, rel=0.01)
    assert found.latencies.quantile(1.0) == pytest.approx(0.004, rel=0.01)


@pytest.mark.parametrize("line", ["", MARK + "nothing", MARK + '{"duration_us":1}', LINE + "\n" + LINE])
def test_other_output_of_wrk_is_refused_by_name(line: str) -> None:
    with pytest.raises(BadOutput, match="wrk printed"):
        read_output(OUTPUT.format(line=line))


def test_the_script_of_wrk_has_the_keys_the_value_and_the_mix() -> None:
    made = script(Workload("get", value_bytes=16), Random(1))
    assert made.count('"YmVuY2gtMTYt') == 10_000  # "bench-16-"
    assert "local gets = {1,1," in made and "0" not in made.partition("local gets = {")[2].partition("}")[0]


def test_all_keys_are_in_transactions_of_limited_size() -> None:
    bodies = puts_of([b"%d" % number for number in range(10)], bytes(300), most_bytes=1000, most=100)
    sizes = [len(json.loads(body)["success"]) for body in bodies]
    assert sizes == [2, 2, 2, 2, 2]
    assert [len(json.loads(b)["success"]) for b in puts_of([b"a", b"b", b"c"], b"v", 1 << 20, 2)] == [2, 1]


def test_the_barriers_of_etcd_are_those_of_its_log_and_twice_the_commits_of_its_database() -> None:
    metrics = (
        "# HELP etcd_disk_wal_fsync_duration_seconds x\netcd_disk_wal_fsync_duration_seconds_count 10\n"
        "etcd_disk_backend_commit_duration_seconds_count 3\netcd_disk_wal_fsync_duration_seconds_sum 0.5\n"
    )
    assert syncs_of(metrics) == 16
