"""The hour of puts, in a second."""

import pytest

from tools.bench.steady import HEADS, main


@pytest.mark.process
@pytest.mark.system  # it starts a cluster and kills it twice
def test_each_minute_is_told_and_a_restart_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    main(minutes=2, puts_per_s=200.0, minute_s=0.5)
    before, heads, first, second, after = capsys.readouterr().out.splitlines()
    assert before.startswith("restart before") and after.startswith("restart after")
    assert tuple(heads.split()) == HEADS
    rows = [[float(word) for word in line.split()] for line in (first, second)]
    assert [row[0] for row in rows] == [1, 2] and 0 < rows[0][1] < rows[1][1] <= 300
    assert all(size > 0 for row in rows for size in row[2:])
