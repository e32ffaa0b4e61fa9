"""Linearizability: histories (`history`), the search (`linearizability`), a picture of what failed (`picture`)."""
