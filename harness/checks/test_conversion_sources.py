"""CONV: what a source directory may look like. Legend: B batch, S sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from moe_harness.cases.cases import Case
from moe_harness.cases.synthetic import small, synthesize
from moe_harness.cases.tensors import numpy_dtype
from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.checkpoint.writer import write_checkpoint
from moe_harness.implementations.families.weights import scatter
from moe_harness.implementations.interface import DTYPES, CheckpointError, ModelConfig
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import changes, prefill, request
from moe_harness.suite.judgements import judge_routing_inside, judge_traces
from moe_harness.suite.poison import poisoned_memory
from moe_harness.suite.situations import Tensors, like, on, rewritten, text, two_layers
from moe_harness.suite.subject import Subject

ROWS, LENGTH = 2, 20
LEAST_INFLUENCE = 1e-4  # of the largest logit: rounding moves float32 logits by 1e-6, the least telling tensor by 0.2
SHARD_BYTES = 40_000  # small enough that one layer's experts lie in several shards


@clause("CONV-03", "A sharded checkpoint gives what a single file gives", dtypes=LOGIC)
def test_sharded_source_gives_the_same_bits(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill")
    single = like(subject, "single-file", two_layers(subject.config.family))
    sharded = on(
        subject, Case("sharded", subject.workshop.once(f"sharded-{single.case.checkpoint}", lambda dst: _reshard(single.case, dst)))
    )
    shards = len(list(sharded.case.checkpoint.glob("*.safetensors")))
    tokens_BS = text(subject, ROWS, LENGTH)
    with single.fresh_model(convert=True) as one, sharded.fresh_model(convert=True) as other:
        runs = [prefill(model, tokens_BS, request(subject)) for model in (one, other)]
    verdict.judge(*changes(*runs), about=f"{shards} shards")
    verdict.saw(shards=shards)
    verdict.require(shards=3)


def _reshard(case: Case, dst: Path) -> None:
    with Checkpoint(case.checkpoint) as source:
        tensors = {p.source: source.source(p.source) for p in source.layout}
        write_checkpoint(dst, source.raw_config, tensors, SHARD_BYTES)


@clause("CONV-04", "A tied head, stored or not, is the embedding; an untied one is its own", dtypes=LOGIC)
@pytest.mark.parametrize("head", ["tied", "tied and stored", "untied"])
def test_tied_heads(subject: Subject, verdict: Verdict, head: str) -> None:
    config = two_layers(subject.config.family, tie_word_embeddings=head != "untied")
    path = subject.workshop.once(f"{head}-{config}", lambda dst: synthesize(config, dst, stored_head=head != "tied"))
    _judge_converted(on(subject, Case(head, path)), verdict, head)


@clause("CONV-05", "float32, bfloat16 and float16 checkpoints are read for what they hold")
@pytest.mark.parametrize("stored", DTYPES)
def test_stored_dtypes(subject: Subject, verdict: Verdict, stored: str) -> None:
    """The oracle sees the stored values rounded once to the candidate's dtype, as a loader does."""
    source = like(subject, "stored-dtype", two_layers(subject.config.family, dtype=stored))
    if stored != subject.dtype and subject.dtype != "float32":
        cast = replace(source.config, dtype=subject.dtype)
        rounded = rewritten(source, f"rounded-to-{subject.dtype}", lambda tensors: _cast(tensors, cast), cast)
    else:
        rounded = source
    _judge_converted(source, verdict, f"stored {stored}, loaded {subject.dtype}", rounded.case)


def _cast(tensors: Tensors, config: ModelConfig) -> Tensors:
    return {n: t if n.endswith("correction_bias") else t.astype(numpy_dtype(config.dtype)) for n, t in tensors.items()}


@clause("CONV-06", "Converting and loading write all that they make: nothing is left to what memory held")
def test_conversion_in_poisoned_memory(subject: Subject, verdict: Verdict) -> None:
    subject.needs_this_process()
    source = like(subject, "poisoned-conversion", two_layers(subject.config.family), seed=3)
    with poisoned_memory():
        _judge_converted(source, verdict, "in poisoned memory")


@clause("CONV-07", "Shapes that fit both ways round are not guessed at", dtypes=LOGIC)
@pytest.mark.parametrize("shape", ["2F = D", "F = D", "E = F", "all equal"])
def test_ambiguous_shapes(subject: Subject, verdict: Verdict, shape: str) -> None:
    _judge_converted(like(subject, "ambiguous", _ambiguous(subject.config.family, shape)), verdict, shape)


def _ambiguous(family: str, shape: str) -> ModelConfig:
    """A transposed or swapped tensor has the right shape here. Families whose experts have the dense size keep that rule."""
    sizes = {"2F = D": (32, 12), "F = D": (64, 12), "E = F": (16, 16), "all equal": (64, 64)}
    F, E = sizes[shape]
    config = small(family, E, 3)
    changes = {"moe_intermediate_size": F, "shared_expert_intermediate_size": F if config.shared_expert != "none" else 0}
    own_size = "moe_intermediate_size" in families.family(family).free
    changes["intermediate_size"] = config.intermediate_size if own_size else F
    if shape == "all equal":  # q, k, v and o are square as well
        changes |= {"num_key_value_heads": config.num_attention_heads, "head_dim": config.hidden_size // config.num_attention_heads}
    return replace(config, **changes)  # type: ignore[arg-type]


@clause("CONV-08", "What to_hf writes is read by an independent implementation, which computes the same", dtypes=LOGIC)
def test_written_checkpoint_is_read_by_the_oracle(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill")
    source = like(subject, "written", two_layers(subject.config.family))
    back = subject.workshop.once(
        f"{subject.backend.name}-to-hf-{source.case.checkpoint}",
        lambda dst: subject.backend.to_hf(str(subject.workshop.converted(subject.backend, source.case.checkpoint)), str(dst)),
    )
    _judge_converted(source, verdict, "against the oracle on what to_hf wrote", Case("written back", back))


@clause("CONV-09", "Every tensor of the source influences the output", dtypes=LOGIC)
def test_every_tensor_influences_the_output(subject: Subject, verdict: Verdict) -> None:
    """With all experts chosen (k = E) none can hide; but then a correction bias, which only selects, changes nothing. One source tensor
    at a time is changed by more than rounding."""
    subject.needs("prefill")
    source = like(subject, "influence", small(subject.config.family, 4, 4))
    family, tokens_BS = families.family(source.config.family), text(source, 1, 12)
    before = _converted_logits(source, tokens_BS)
    canonical = {name: source.case.tensor(name) for name in source.case.tensor_names()}
    tensors = dict(scatter(family.layout(source.config, True), canonical))
    telling = [name for name in tensors if not name.endswith("correction_bias")]
    for name in telling:
        with TemporaryDirectory(dir=subject.workshop.directory) as scratch:
            changed = {n: _moved(t) if n == name else t for n, t in tensors.items()}
            write_checkpoint(f"{scratch}/source", family.to_hf(source.config), changed)
            after = _converted_logits(on(subject, Case("influence", Path(scratch) / "source")), tokens_BS)
        moved = float(np.max(np.abs(after - before)) / np.max(np.abs(before)))
        verdict.judge(Metric("tensors_without_influence", int(not moved > LEAST_INFLUENCE), 0), about=f"{name} moves logits by {moved:.1g}")
        verdict.saw(tensors=1)
    verdict.require(tensors=len(telling))


@clause("CONV-10", "A missing, unknown or misshapen tensor is refused by name, and nothing half-written is left", dtypes=LOGIC)
@pytest.mark.parametrize("damage", ["missing", "unknown", "misshapen"])
def test_damaged_checkpoints_are_refused(subject: Subject, verdict: Verdict, damage: str) -> None:
    subject.needs()
    source = like(subject, "damaged", small(subject.config.family))
    family = families.family(source.config.family)
    canonical = {name: source.case.tensor(name) for name in source.case.tensor_names()}
    tensors = dict(scatter(family.layout(source.config, True), canonical))
    telling = (f"experts.1.{family.expert_parts[2]}.weight", "gate.weight", "k_proj.weight")
    for victim in (name for name in tensors if name.endswith(telling)):
        with TemporaryDirectory(dir=subject.workshop.directory) as scratch:
            name, damaged = _damaged(tensors, victim, damage)
            write_checkpoint(f"{scratch}/source", family.to_hf(source.config), damaged)
            _judge_damaged(subject, verdict, Path(scratch), f"{damage} tensor", name)
    verdict.require(refused=2)


def _judge_damaged(subject: Subject, verdict: Verdict, folder: Path, what: str, name: str) -> None:
    src, own = str(folder / "source"), folder / "own"
    ways: dict[str, Callable[[], object]] = {"from_hf": lambda: subject.backend.from_hf(src, str(own))}
    if subject.capabilities.reads_hf:
        ways["load"] = lambda: subject.backend.load(src, subject.load_spec)
    for way, call in ways.items():
        told = _refusal(call)
        verdict.judge(Metric("not_refused_by_name", int(name not in told), 0), about=f"{what} {name}, {way}: {told or 'accepted'}")
        verdict.saw(refused=1)
    verdict.judge(Metric("left_behind", int(own.exists()), 0), about=f"{what} {name}")


def _damaged(tensors: Tensors, victim: str, damage: str) -> tuple[str, Tensors]:
    """(the name that a refusal must give, the damaged tensors)."""
    if damage == "missing":
        return victim, {name: tensor for name, tensor in tensors.items() if name != victim}
    if damage == "unknown":
        return victim + "_of_another_model", tensors | {victim + "_of_another_model": tensors[victim]}
    return victim, tensors | {victim: np.ascontiguousarray(tensors[victim][:, :-1])}


def _refusal(call: Callable[[], object]) -> str:
    """What a CheckpointError says; "" where none is raised."""
    try:
        call()
    except CheckpointError as error:
        return str(error)
    return ""


def _converted_logits(subject: Subject, tokens_BS: np.ndarray) -> np.ndarray:
    """logits_SV of one row, by way of the backend's own format."""
    with subject.fresh_model(convert=True) as model:
        return prefill(model, tokens_BS, request(subject))[0].logits_SV


def _moved(tensor: np.ndarray) -> np.ndarray:
    """Not by a constant: a softmax, or a norm after a bias, would not notice."""
    return tensor + np.random.default_rng(9).standard_normal(tensor.shape).astype(tensor.dtype) / 4


def _judge_converted(source: Subject, verdict: Verdict, about: str, expected: Case | None = None) -> None:
    """Converted, loaded and run: the logits are those of the oracle on `expected` (default: the source itself)."""
    source.needs("prefill")
    with source.fresh_model(convert=True) as model:
        traces = prefill(model, text(source, ROWS, LENGTH), request(source))
    judged = on(source, expected or source.case)
    judge_traces(judged, verdict, traces, about=about)
    for trace in traces:
        if trace.ids_LSK is not None:  # a pinned comparison of logits does not see a damaged correction bias
            judge_routing_inside(judged, verdict, trace)
    verdict.require(tokens=ROWS * LENGTH)
