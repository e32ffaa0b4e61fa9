"""How well frames travel one way between two hosts."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final


@dataclass(frozen=True, slots=True)
class Conditions:
    """A frozen value. `loss` is the probability that a frame is dropped; a frame that is not takes a time drawn evenly from
    `delay_s`, in seconds, and never overtakes one of the same connection unless `reordered`.

    With `cut` every frame is dropped, and the end of a connection is not seen either: a black hole. The handshake of a
    connection is never lost but waits until its way is not cut, as TCP would send it again.
    """

    loss: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)
    reordered: bool = False
    cut: bool = False

    def __post_init__(self) -> None:
        shortest, longest = self.delay_s
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss is {self.loss}; it is a probability, 0..1")
        if not 0 <= shortest <= longest < float("inf"):
            raise ValueError(f"delay_s is {self.delay_s}; it must be the shortest and the longest, 0 or more seconds")

    def drops(self, rng: Random) -> bool:
        """Whether the next frame is lost."""
        return self.cut or (self.loss > 0 and rng.random() < self.loss)

    def takes_s(self, rng: Random) -> float:
        """How long the next frame travels."""
        return rng.uniform(*self.delay_s) if self.delay_s[1] > 0 else 0.0


PERFECT: Final = Conditions()
CUT: Final = Conditions(cut=True)
UNRELIABLE: Final = Conditions(loss=0.1, delay_s=(0.0, 0.026), reordered=True)
"""The labs' unreliable network: one frame in ten is lost, the others take up to 26 ms and overtake each other."""
