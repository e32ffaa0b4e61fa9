"""Swarm simulation: a seed draws a cluster, its constants and which faults exist at all (`shape`); clients (`clients`) and
changes of configuration (`changes`) run through them (`faults`); everything is watched (`ledger`, `tools.sim.watch`) and at
the end checked (`run`). `campaign` plays many seeds, `story` replays one for people.
"""
