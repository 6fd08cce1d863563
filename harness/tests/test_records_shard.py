"""A run whose records are gzipped is the same run: the same records, the same report, and its seal stands."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from moe_harness.records.frame import load_frame
from moe_harness.records.raw import read_raw
from moe_harness.records.record import RecordError, read_run
from moe_harness.records.seal import compute, seal
from moe_harness.records.shard import shards
from moe_harness.report.build import build
from moe_harness.report.compare.verify import WrittenReport, verify

RUN = Path(__file__).parent / "data" / "run-of-november"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def pack(run: Path) -> None:
    for shard in run.glob("*.jsonl"):
        (shard.parent / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes()))
        shard.unlink()


def test_a_packed_run_is_the_same_run(run: Path, tmp_path: Path):
    plain = read_run(run)
    digest = seal(run)
    build(load_frame([run]), tmp_path / "plain")
    pack(run)
    assert plain and read_run(run) == plain
    assert compute(run)["digest"] == digest and not verify(WrittenReport([read_raw(run)], tmp_path)).findings
    build(load_frame([run]), tmp_path / "packed")
    assert (tmp_path / "plain" / "index.html").read_bytes() == (tmp_path / "packed" / "index.html").read_bytes()


def test_a_changed_record_of_a_packed_run_is_found_by_its_seal(run: Path, tmp_path: Path):
    seal(run)
    pack(run)
    (packed,) = (shard.path for shard in shards(run))
    packed.write_bytes(gzip.compress(gzip.decompress(packed.read_bytes()).replace(b'"PASS"', b'"KNOWN"', 1)))
    assert any(
        (found.field, found.recomputed) == ("line", "changed since") for found in verify(WrittenReport([read_raw(run)], tmp_path)).findings
    )


def test_a_shard_that_is_there_twice_counts_once(run: Path):
    """As while `gzip` runs, or after `gzip --keep`."""
    plain = read_run(run)
    (shard,) = run.glob("*.jsonl")
    (run / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes())[:-20])
    assert [each.path for each in shards(run)] == [shard] and read_run(run) == plain


def test_half_a_gzip_file_is_said_to_be_one(run: Path):
    pack(run)
    (packed,) = (shard.path for shard in shards(run))
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(RecordError, match=r"records-1\.jsonl\.gz: not a gzip file"):
        read_run(run)
