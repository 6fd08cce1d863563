"""Makes the pictures of report.md from real runs: `python docs/screens.py [CHROMIUM]`. Takes some minutes; Pillow comes with matplotlib.

The subject is the harness's own numpy implementation under the name `mine:backend`, first right, then with a bug of the catalogue.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
PICTURES, SIZE = HERE / "pictures", "1280,800"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SUBJECT = """from moe_harness.mutants.catalogue import faulty
from moe_harness.emulator.seams import HONEST
from moe_harness.emulator.subject import SubjectBackend


def backend(variant=""):
    return SubjectBackend("mine:backend", {seams})
"""
BOTH = ("--backend", "mine:backend", "--backend", "native")
TOPICS = "ROUTE or BLOCK or PARITY or CACHE or PAD or BATCH or CONV or DET"  # what fits a coffee break
CHECKS = ("run", *BOTH, "--workers", "0", "-k", f"(mixtral or qwen3_moe) and ({TOPICS})")
SPEEDS = ("bench", *BOTH, "--checkpoint", "mixtral")


def harness(folder: Path, run: str, seams: str, *words: str) -> None:
    """One run into reports/runs/`run`; its exit code is part of the picture."""
    (folder / "mine.py").write_text(SUBJECT.format(seams=seams), encoding="utf-8")
    command = [sys.executable, "-m", "moe_harness", *words, "--run-dir", f"reports/runs/{run}"]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=False)


def report(folder: Path, run: str, *words: str) -> Path:
    command = [sys.executable, "-m", "moe_harness", "report", f"reports/runs/{run}", *words, "--out", run]
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"the run {run} is not what a picture needs: exit code {done.returncode}")
    return folder / run / "index.html"


def photograph(browser: str, page: Path, name: str) -> None:
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={SIZE}",
        "--run-all-compositor-stages-before-draw",
    ]
    subprocess.run([browser, *flags, f"--screenshot={PICTURES / name}", page.as_uri()], check=True, capture_output=True)
    Image.open(PICTURES / name).convert("RGB").quantize(96).save(PICTURES / name, optimize=True)


def main() -> None:
    browser = sys.argv[1] if len(sys.argv) > 1 else next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed; name a browser as the argument")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(HERE.parent / "golden" / "mixtral" / "checkpoint", folder / "mixtral")
        harness(folder, "monday", "HONEST", *CHECKS)
        harness(folder, "tuesday", "faulty('selection-bias-10-percent')", *CHECKS)
        harness(folder, "wednesday", "faulty('gate-up-swapped')", *SPEEDS)
        photograph(browser, report(folder, "monday"), "report-green.png")
        photograph(browser, report(folder, "tuesday", "--baseline", "reports/runs/monday"), "report-red.png")
        photograph(browser, report(folder, "wednesday"), "report-void.png")


if __name__ == "__main__":
    main()
