"""Run directories -> index.html, report.md, results.csv, junit.xml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_harness.records.frame import Frame, load_frame
from moe_harness.records.whole import make_directory, replace
from moe_harness.report.junit import junit
from moe_harness.report.markdown import markdown
from moe_harness.report.page import page
from moe_harness.report.table import table
from moe_harness.report.verdict import Verdict, verdict


def build(run_directories: Sequence[Path], out: Path, base: Sequence[Path] = ()) -> Verdict:
    """Merges the runs and writes the four files into `out`, each replaced at once; `base`: earlier ones to compare with. The same records
    give the same bytes: no clock, no path of the machine that builds. Raises RecordError for unreadable records and ValueError for no run,
    or the same one twice."""
    frame = load_frame([Path(directory) for directory in run_directories], [Path(directory) for directory in base])
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
