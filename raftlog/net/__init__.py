"""The two networks of a peer, TCP and simulated, under one contract (`base`); frames are pure bytes (`frames`)."""
