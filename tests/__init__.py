"""The tests, in folders that mirror the houses; nothing imports them."""
