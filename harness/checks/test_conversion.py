"""CONV: HF directory -> backend -> HF directory, over generated configs with a watermark in every element."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import strategies as st

from moe_harness.cases.cases import Case
from moe_harness.cases.strategies import explore, model_configs
from moe_harness.cases.synthetic import synthesize
from moe_harness.implementations.interface import LoadSpec, ModelConfig
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import clause
from moe_harness.suite.drivers import prefill, request
from moe_harness.suite.judgements import judge_routing_inside, judge_traces
from moe_harness.suite.subject import Subject
from moe_harness.suite.watermark import compare, watermark


@clause("CONV-01", "A conversion round trip keeps names, shapes, dtypes, bits and config", dtypes=("float32",))
def test_round_trip_is_bit_exact(subject: Subject, verdict: Verdict) -> None:
    subject.needs()

    @explore(subject.workshop.thorough, 8, shrink=False, config=model_configs(subject.config.family), stored_head=st.booleans())
    def check(config: ModelConfig, stored_head: bool) -> None:
        with TemporaryDirectory(dir=subject.workshop.directory) as scratch:
            source, own, back = (Path(scratch) / name for name in ("source", "own", "back"))
            watermark(config, source, stored_head or not config.tie_word_embeddings)
            subject.backend.from_hf(str(source), str(own))
            subject.backend.to_hf(str(own), str(back))
            verdict.judge(*compare(source, back, subject.capabilities.lossy), about=f"{config}, stored_head={stored_head}")
            verdict.saw(checkpoints=1)

    verdict.require(checkpoints=4)


@clause("CONV-02", "A converted model computes what its source says", dtypes=("float32",))
def test_converted_model_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill")
    tokens_BS = np.random.default_rng(2).integers(0, 256, (2, 24))

    @explore(subject.workshop.thorough, 6, shrink=False, config=model_configs(subject.config.family), seed=st.integers(0, 3))
    def check(config: ModelConfig, seed: int) -> None:
        with TemporaryDirectory(dir=subject.workshop.directory) as scratch:
            case = Case("fuzzed", synthesize(replace(config, dtype="float32"), Path(scratch) / "source", seed))
            subject.backend.from_hf(str(case.checkpoint), f"{scratch}/own")
            model = subject.backend.load(f"{scratch}/own", LoadSpec(device=subject.workshop.device, max_length=32))
            fuzzed = replace(subject, case=case)
            try:
                traces = prefill(model, tokens_BS, request(fuzzed))
                judge_traces(fuzzed, verdict, traces, about=f"{config}")
                for trace in traces:
                    if trace.ids_LSK is not None:  # a pinned comparison of logits does not see a damaged correction bias
                        judge_routing_inside(fuzzed, verdict, trace)
            finally:
                model.close()

    verdict.require(tokens=4 * tokens_BS.size)
