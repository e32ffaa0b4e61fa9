"""Planted bugs: named mutations of our own code (`catalogue`), planted at import in a process of their own (`planting`) and
hunted by the simulation (`hunt`). They show what the suite finds, and how soon.
"""
