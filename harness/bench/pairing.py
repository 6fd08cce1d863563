"""`--pair A B`: one workload on two subjects in turn, B judged against A. Both are gated before and after, and must have done the same
work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from moe_harness.bench.blocks import Series
from moe_harness.bench.compare import Answer, compare, prepared
from moe_harness.bench.gate import gate, gate_after
from moe_harness.bench.same_work import sameness
from moe_harness.bench.timing import described, load
from moe_harness.bench.workload import Workload
from moe_harness.implementations.interface import Model
from moe_harness.records.status import Status
from moe_harness.stats.paired import PairConfig
from moe_harness.stats.quantiles import percentiles
from moe_harness.suite.subject import Subject


@dataclass
class Asked:
    """Stands in for `Timing` where only the workload is wanted: a benchmark's `run` leaves it here."""

    subject: Subject
    model: Model
    record: dict[str, Any] = field(default_factory=dict)
    workload: Workload | None = None

    def run(
        self,
        step: Callable[[], object],
        prepare: Callable[[], object] | None,
        tokens: int,
        work: Mapping[str, Any] | None = None,
        **parameters: int | float | str,
    ) -> None:
        self.workload = Workload(self.subject, self.model, step, prepare, tokens, {"cache": "interleaved", **parameters}, work)


@dataclass(frozen=True)
class Request:
    """`base`: A. `ask`: runs the benchmark's function on another subject. `budget`: seconds of a series, None: the default."""

    base: Subject
    ask: Callable[[Asked], None]
    pair_config: PairConfig
    budget: float | None


class PairTiming:
    """What a benchmark is given under --pair, in place of `Timing`. `record`: the challenger's `bench` record; `pair`: that of both."""

    def __init__(self, subject: Subject, benchmark: Any, record: dict[str, Any], request: Request):
        self.subject, self._benchmark, self.record, self._request = subject, benchmark, record, request
        self.model = load(subject)
        self.pair: dict[str, Any] = {"a": request.base.backend.name, "b": subject.backend.name}

    def run(
        self,
        step: Callable[[], object],
        prepare: Callable[[], object] | None,
        tokens: int,
        work: Mapping[str, Any] | None = None,
        **parameters: int | float | str,
    ) -> None:
        """As `Timing.run`, of two. FAIL where B is slower, twice; VOID where a gate does not open or the work is not the same."""
        base = Asked(self._request.base, load(self._request.base))
        self._request.ask(base)
        if base.workload is None:  # it found something that must not be timed
            self._close({"status": Status.VOID, "reason": f"{base.subject.backend.name}: {base.record['reason']}"})
            return
        challenger = Asked(self.subject, self.model)
        challenger.run(step, prepare, tokens, work, **parameters)
        assert challenger.workload is not None
        a, b = base.workload, challenger.workload
        self.record |= {**described(b), "samples": []}
        self.pair["parameters"] = dict(b.parameters)
        first_calls = [each.arm().time() for each in (a, b)]
        if not (self._gated(a, b) and self._same(a, b)):
            return
        self._benchmark.group = f"{self.record['workload']} {self.subject.case.name} {self.subject.dtype}"
        if not self._benchmark.enabled:
            self._benchmark.pedantic(b.once)
            self._close({"status": Status.UNSUPPORTED, "reason": "timing is switched off (--benchmark-disable)"})
            return
        self._tell(self._compared(a, b), first_calls)
        self._gated_after(a, b)

    def _gated(self, a: Workload, b: Workload) -> bool:
        found = [gate(each.subject, each.model) for each in (a, b)]
        self.record |= found[1]
        return self._open(a, b, found)

    def _gated_after(self, a: Workload, b: Workload) -> None:
        found = [gate_after(each.subject, each.model) for each in (a, b)]
        self.record |= found[1]
        if not self._open(a, b, found):
            self._benchmark.has_error = True  # keeps the number out of pytest-benchmark's tables and files
            self.record |= {"samples": [], "percentiles": {}}
            self.pair |= {"verdict": "inconclusive", "ratio": None, "low": None, "high": None, "mde": None}

    def _open(self, a: Workload, b: Workload, found: list[dict[str, Any]]) -> bool:
        for each, said in zip((a, b), found, strict=True):
            if said.get("status") == Status.VOID:
                self._close({"status": Status.VOID, "reason": f"{each.subject.backend.name}: {said['reason']}"})
                return False
        return True

    def _same(self, a: Workload, b: Workload) -> bool:
        found = sameness(a, b)
        self.pair["sameness"] = asdict(found)
        if found.difference:
            self._close({"status": Status.VOID, "reason": f"not the same work: {found.difference}"})
        return not found.difference

    def _close(self, ending: dict[str, Any]) -> None:
        self.record |= ending
        self.pair |= ending

    def _compared(self, a: Workload, b: Workload) -> Answer:
        ready = prepared(a.arm(), b.arm(), self._request.budget)
        self.pair |= {"warmup": [each.rounds for each in ready.warm_ups], "steady": [each.steady for each in ready.warm_ups]}
        return compare(ready, self._request.pair_config, self._take)

    def _take(self, series: Series) -> Series:
        """Takes a series so that pytest-benchmark times B's rounds too."""
        rounds = series.pending()
        waiting: list[Callable[[], None]] = []

        def up_to_b() -> None:
            waiting[:] = [next(rounds)]

        self._benchmark.pedantic(lambda: waiting[0](), setup=up_to_b, rounds=series.plan.rounds)
        for take_round in rounds:  # what is left after B's last round
            take_round()
        return series

    def _tell(self, answer: Answer, first_calls: list[float]) -> None:
        """Puts the answer into both records and into pytest-benchmark's."""
        self.pair |= {**answer.to_record(), "first_call_s": first_calls, "status": Status.PASS}
        samples = [sample for block in answer.series[-1].samples[1] for sample in block]
        about = {"first_call_s": first_calls[1], "warmup": self.pair["warmup"][1], "steady": self.pair["steady"][1]}
        self.record |= {"samples": samples, "percentiles": percentiles(samples), **about}
        final = answer.final
        if final.verdict == "slower":
            assert final.ratio and final.low and final.high
            share = f"{final.ratio - 1:+.1%} [{final.low - 1:+.1%}, {final.high - 1:+.1%}]"
            self._close({"status": Status.FAIL, "reason": f"slower than {self.pair['a']}: {share}, in two series of blocks"})
        shown = {name: self.pair[name] for name in ("a", "b", "ratio", "low", "high", "confidence", "delta", "mde", "verdict")}
        self._benchmark.extra_info.update(shown, tokens=self.record["tokens"], percentiles=self.record["percentiles"])
