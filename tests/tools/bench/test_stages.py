"""The stages that are measured are the real ones, and do what they are measured for."""

import pytest

from tools.bench.stages import CLIENTS, Applying, main


def test_every_put_that_is_applied_takes_effect() -> None:
    applying = Applying()
    applying.apply(applying.entry(), applying.entry())
    assert applying.took_effect() == 2 * CLIENTS


def test_every_stage_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(blocks=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(float(line.split()[-2]) > 0 for line in lines)
