"""A table as data, for a terminal, a page and the docs alike. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any


@dataclass
class Grid:
    """Rows of text under columns; `words` says how many of the first columns are words and not numbers."""

    title: str
    columns: Sequence[str]
    words: int = 1
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """One more row."""
        assert len(cells) == len(self.columns), f"{len(cells)} cells for {len(self.columns)} columns: {cells}"
        self.rows.append(list(cells))

    def markdown(self) -> str:
        """As in the docs."""
        lines = [self.columns, ["---" if at < self.words else "---:" for at in range(len(self.columns))], *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    def html(self) -> str:
        """As in a page."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in self.rows)
        return f"<h2>{escape(self.title)}</h2>\n<table><tr>{head}</tr>\n{body}</table>\n"


def figure(figures: Mapping[str, Mapping[str, Any]], name: str, form: str = ".2f", scale: float = 1.0) -> str:
    """The median of a figure of `report.over_rounds` as text; "-" where there is none."""
    value = figures.get(name, {}).get("median")
    return "-" if value is None or math.isnan(value) else format(scale * value, form)


def spread_text(figures: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """How far apart the rounds were, in percent of the median."""
    value = figures.get(name, {}).get("spread")
    return "-" if value is None or math.isnan(value) else f"{100 * value:.0f}"
