"""The counts as Markdown, and their place in docs/against-allclose.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allclose.candidates import DTYPES
from allclose.rules import RULES
from allclose.tally import Rate

PAGE, COUNTS, PICTURE = "against-allclose.md", "rivals.json", "rivals.svg"
TITLES = {rule.id: (rule.title, f"{rule.site}") for rule in RULES} | {
    "ours-same-runs": ("**moe-harness**, on what the rules see", "both"),
    "ours": ("**moe-harness**, all clauses", "all"),
}
ORDER = ("ours", "ours-same-runs", *(rule.id for rule in RULES))
Counts = dict[str, Any]


def blocks(counts: Counts) -> dict[str, str]:
    """What the page holds of the counts, by the name of its place."""
    return {
        "asked": "\n".join(_asked(counts)),
        "rates": "\n".join(_rates(counts)),
        "rules": "\n".join(_rules()),
        "missed": "\n".join(_missed(counts)),
    }


def dumps(counts: Counts) -> str:
    """JSON with every list on one line, so that a change of one count is a change of one line."""
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", json.dumps(counts, indent=1)) + "\n"


def fill(page: Path, counts: Counts) -> None:
    """Replaces what stands between `<!-- NAME: ... -->` and `<!-- end -->`. Raises ValueError where a place is missing."""
    text = page.read_text(encoding="utf-8")
    for name, block in blocks(counts).items():
        text, places = re.subn(place(name), lambda found, block=block: f"{found[1]}\n{block}\n{found[3]}", text)  # type: ignore[misc]
        if places != 1:
            raise ValueError(f"{page}: {places} places for {name!r}, one expected")
    page.write_text(text, encoding="utf-8")


def place(name: str) -> str:
    """Matches a place: (opening comment)(content)(closing comment)."""
    return rf"(<!-- {name}:[^>]*-->)\n([\s\S]*?)\n?(<!-- end -->)"


def _asked(counts: Counts) -> Iterator[str]:
    for dtype in DTYPES:
        seen = counts["candidates"][dtype]
        yield (
            f"- {dtype}: {seen['visible_faults']} visible faults; {seen['honest_runs']} honest runs of {seen['honest_kinds']} kinds that "
            "change a bit of the logits."
        )
    judged, known = counts["candidates"]["faults"], counts["candidates"]["catalogue"]
    yield f"- Faults in all: {judged}" + ("." if judged == known else f", drawn at random from the catalogue's {known}.")


def _rates(counts: Counts) -> Iterator[str]:
    heads = [f"{dtype}: {what}" for dtype in DTYPES for what in ("killed of visible", "alarms", "killed, limit tuned")]
    yield f"| rule | judges | {' | '.join(heads)} | killed of all |"
    yield "|" + "---|" * (len(heads) + 3)
    for name in ORDER:
        row, (title, site) = counts["rows"][name], TITLES[name]
        cells = [_cell(row[dtype].get(what)) for dtype in DTYPES for what in ("kills", "alarms", "tuned")]
        yield f"| {title} | {site} | {' | '.join(cells)} | {_cell(row['all'])} |"


def _cell(counted: list[int] | None) -> str:
    """Per cent, with the interval."""
    if counted is None:
        return ""
    rate = Rate(*counted)
    low, high = rate.interval
    return f"{100 * rate.share:.1f} % ({100 * low:.0f}-{100 * high:.0f})"


def _rules() -> Iterator[str]:
    yield "| rule | judges | a run passes if | source |"
    yield "|---|---|---|---|"
    for rule in RULES:
        yield f"| {rule.title} | {rule.site} | {rule.what} | [{rule.source.split('/')[2]}]({rule.source}) |"


def _missed(counts: Counts) -> Iterator[str]:
    for dtype in DTYPES:
        missed = counts["missed"][dtype]
        ours = [fault for fault, names in missed.items() if "ours" in names]
        blind = [
            fault for fault, names in missed.items() if {rule.id for rule in RULES if rule.id not in _alarming(counts, dtype)} <= {*names}
        ]
        yield f"- {dtype}, missed by moe-harness: {_listed(ours)}."
        yield f"- {dtype}, missed by every rule that alarms on at most one honest run in twenty: {_listed(blind)}."


def _alarming(counts: Counts, dtype: str) -> set[str]:
    return {rule.id for rule in RULES if Rate(*counts["rows"][rule.id][dtype]["alarms"]).share > 0.05}


def _listed(faults: list[str]) -> str:
    return ", ".join(f"`{fault}`" for fault in faults) or "none"
