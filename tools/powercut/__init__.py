"""Power cuts: what a program wrote is recorded as system calls, every state that a crash may leave is made of it, and each
is recovered by our own code and held against what the program had acknowledged by then. `docs/powercut.md` has the model."""
