"""A frame -> index.html, report.md, results.csv, junit.xml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moe_harness.records.frame import Frame
from moe_harness.records.whole import make_directory, replace
from moe_harness.report.junit import junit
from moe_harness.report.markdown import markdown
from moe_harness.report.page import page
from moe_harness.report.table import table
from moe_harness.report.verdict import Verdict, verdict


def build(frame: Frame, out: Path) -> Verdict:
    """Writes the four files into `out`, each replaced at once. The same records give the same bytes: no clock, no path of the machine that
    builds."""
    write(Path(out), files(frame))
    return verdict(frame)


def files(frame: Frame, home: str = "") -> dict[str, str]:
    """Name -> text of the four files; `home`: where the site's index is, relative to them."""
    return {"index.html": page(frame, home), "report.md": markdown(frame), "results.csv": table(frame), "junit.xml": junit(frame)}


def write(out: Path, texts: Mapping[str, str]) -> None:
    """Makes the directory; each file is replaced at once. Raises Unwritable."""
    make_directory(out)
    for name, text in texts.items():
        replace(out / name, text)
