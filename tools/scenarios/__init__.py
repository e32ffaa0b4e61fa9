"""The scenarios of the labs, by name, in the simulated world; `tests/tools/scenarios` plays them."""
