"""Titled tables of texts, for a terminal and as Markdown. Foreign texts stay texts in both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moe_harness.records.clean import clean

SHOWN, WIDEST = 50, 100  # lines of a table, characters of a cell
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True)
class Table:
    """`note`: a sentence above the lines. Without lines the table is left out."""

    title: str
    heads: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]
    note: str = ""


def terminal(tables: Iterable[Table]) -> str:
    """Aligned columns."""
    return "\n\n".join(_aligned(table) for table in tables if table.lines)


def markdown(tables: Iterable[Table]) -> str:
    """GitHub's tables."""
    return "\n\n".join(_piped(table) for table in tables if table.lines)


def escaped(text: str) -> str:
    """One line that Markdown takes as text: no table, markup, link or HTML comes of it."""
    line = plain(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*{}\[\]>|#~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", line)


def plain(text: str) -> str:
    """One line without what would steer a terminal."""
    return " ".join(_CONTROL.sub(" ", clean(str(text))).split())


def _aligned(table: Table) -> str:
    cells = [table.heads, *([_cut(plain(cell)) for cell in line] for line in table.lines[:SHOWN])]
    widths = [max(len(line[column]) for line in cells) for column in range(len(table.heads))]
    rows = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([f"{table.title} ({len(table.lines)})", *([f"  {table.note}"] if table.note else []), *rows, *_more(table)])


def _piped(table: Table) -> str:
    body = [f"| {' | '.join(escaped(cell) for cell in line)} |" for line in table.lines[:SHOWN]]
    note = [f"{escaped(table.note)}", ""] if table.note else []
    head = [f"## {table.title} ({len(table.lines)})", "", *note, f"| {' | '.join(table.heads)} |", "|" + " --- |" * len(table.heads)]
    return "\n".join([*head, *body, *(f"\n{line.strip()}" for line in _more(table))])


def _more(table: Table) -> list[str]:
    return [f"  and {len(table.lines) - SHOWN} more"] if len(table.lines) > SHOWN else []


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
