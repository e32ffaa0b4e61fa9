"""The planted bugs, each one that somebody had: from threads and post-mortems of other systems, the paper's known pitfalls,
what implementers of the labs report, and what our own simulation found in us.
"""

from __future__ import annotations

from tools.mutants.controllers import MUTANTS as CONTROLLERS
from tools.mutants.machines import MUTANTS as MACHINES
from tools.mutants.planting import Mutant
from tools.mutants.raft import MUTANTS as RAFT

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in (*RAFT, *MACHINES, *CONTROLLERS)}
