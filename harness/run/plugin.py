"""The pytest plug-in: options, selection, parametrisation, fixtures. Importing it imports nothing heavy, and it leaves the tests of other
projects alone: only items under `harness/checks` and `harness/bench` are ever touched."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from moe_harness.run import adopters, budget, collection, outcome, pair_fixture, recording, surroundings
from moe_harness.suite.options import CLASH, add_options, spec_of

if TYPE_CHECKING:
    from moe_harness.bench.pairing import PairTiming
    from moe_harness.bench.timing import Timing
    from moe_harness.cases.cases import Case, RouterCase
    from moe_harness.judge.verdict import Verdict
    from moe_harness.suite.subject import Subject, Workshop

HERE = Path(__file__).parents[1]
CHECKS, BENCH = HERE / "checks", HERE / "bench"
DEFAULT_DTYPES, TIMED_DTYPES = ("float32", "bfloat16"), ("bfloat16",)


pytest_collect_directory = collection.pytest_collect_directory
pytest_pycollect_makemodule = collection.pytest_pycollect_makemodule


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser) -> Generator[None, Any, Any]:
    result = yield
    add_options(early_config, parser)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clause(id, title, dtypes, golden): the clause of docs/spec.md that a check judges")
    config.addinivalue_line("markers", "workload(name, layers): what a benchmark of moe_harness.bench times; layers: also of single layers")
    config.addinivalue_line("markers", "asked(option): a benchmark that runs only with this option")
    if CLASH in config.stash and any(_names_us(str(arg)) for arg in config.args):
        raise pytest.UsageError(f"a conftest here defines {config.stash[CLASH]}; run moe-harness from another directory")
    spec = spec_of(config)
    if spec.pair and not spec.bench:
        raise pytest.UsageError("--pair goes with --benchmark")
    if spec.bench and _distributed(config):
        raise pytest.UsageError("--benchmark times one process at a time: run it without -n / --dist")
    if spec.selects and config.args_source is not config.ArgsSource.ARGS:
        config.args = [str(BENCH if spec.bench else CHECKS)]
    if spec.selects:
        _validate(config)
        budget.install(config, spec.budget, _is_own)


@pytest.hookimpl(trylast=True, specname="pytest_configure")
def pytest_configure_surroundings(config: pytest.Config) -> None:
    """Once pytest has its terminal."""
    surroundings.install(config)


def _distributed(config: pytest.Config) -> bool:
    return bool(getattr(config.option, "numprocesses", None)) or getattr(config.option, "dist", "no") != "no"


def _names_us(argument: str) -> bool:
    """Whether a positional argument is one of our folders, as a path or as a module under --pyargs."""
    target = argument.split("::")[0]
    return target.startswith(("moe_harness.checks", "moe_harness.bench")) or _is_own(Path(target).resolve())


def _is_own(path: Path) -> bool:
    return path.is_relative_to(CHECKS) or path.is_relative_to(BENCH)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Makes `-k ROUTE-04`, `-k routing` and `-k ttft` select."""
    if _is_own(item.path) and (marker := item.get_closest_marker("clause")):
        item.extra_keyword_matches.add(marker.args[0])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --benchmark our checks are left out, without it our benchmarks; what has no subject: golden checks on a user's own; and what
    the profile does not list."""
    unwanted = CHECKS if spec_of(config).bench else BENCH
    left_out = {item for item in items if item.path.is_relative_to(unwanted) or (_is_own(item.path) and not _has_subject(item))}
    left_out |= {item for item in items if _is_own(item.path) and not _asked(item)}
    if asked := adopters.profile(config):
        own = {item: outcome.identify(item) for item in items if item not in left_out and _is_own(item.path)}
        listed = {item: about for item, about in own.items() if asked.asks(about["check"], about["dtype"])}
        adopters.owe(config, list(listed.values()))
        left_out |= own.keys() - listed.keys()
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))


def _has_subject(item: pytest.Item) -> bool:
    """pytest makes one placeholder item of an empty parameter list."""
    params = getattr(item, "callspec", None)
    return params is not None and isinstance(params.params.get("subject"), tuple)


def _asked(item: pytest.Item) -> bool:
    return all(getattr(spec_of(item.config), marker.args[0]) for marker in item.iter_markers("asked"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if _is_own(Path(metafunc.definition.path)) and "subject" in metafunc.fixturenames:
        params = list(_subjects(metafunc.config, metafunc.definition))
        metafunc.parametrize("subject", params, ids=["-".join((b, c.name, d)) for b, c, d in params], indirect=True, scope="session")


def _subjects(config: pytest.Config, definition: Any) -> Iterator[tuple[str, Case | RouterCase, str]]:
    """(backend name, case, dtype) for every combination that the check is about."""
    clause = definition.get_closest_marker("clause")
    limits = clause.kwargs if clause else {}
    timed = clause is None
    asked = adopters.profile(config)
    dtypes = spec_of(config).dtype or (TIMED_DTYPES if timed else asked.dtypes if asked else DEFAULT_DTYPES)
    if limits.get("dtypes"):
        dtypes = [d for d in limits["dtypes"] if d in dtypes]
    for backend in _backends(config):
        for case in _timed_cases(config, definition) if timed else _judged_cases(config, limits):
            yield from ((backend, case, dtype) for dtype in dtypes)


def _judged_cases(config: pytest.Config, limits: dict[str, Any]) -> Iterator[Case | RouterCase]:
    """The cases that a clause is about; routers by themselves are left out where the user has a checkpoint to be judged on, and where a
    profile is to be conformed to, which is about models."""
    from moe_harness.cases.cases import router_cases
    from moe_harness.suite.clause import concerns

    spec = spec_of(config)
    routers = [] if spec.checkpoint or spec.profile else router_cases()
    cases: list[Case | RouterCase] = [*_cases(config), *routers]
    yield from (case for case in cases if concerns(limits, case))


def _validate(config: pytest.Config) -> None:
    """UsageError for a backend, dtype or checkpoint that cannot be had, before anything is collected."""
    from moe_harness.implementations.interface import DTYPES
    from moe_harness.implementations.registry import BrokenBackend, UnknownBackend
    from moe_harness.suite.hosts import hosts

    try:
        homes = hosts(config)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    spec = spec_of(config)
    for name in (*(spec.backend or ()), *(spec.pair or ())):
        try:
            homes.check(name)
        except (UnknownBackend, BrokenBackend, ValueError) as error:
            raise pytest.UsageError(f"--backend {name}: {error}") from error
    for dtype in spec.dtype or ():
        if dtype not in DTYPES:
            raise pytest.UsageError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    adopters.validate(config)
    _validate_trace(config)
    _cases(config)
    if spec.pair:
        pair_fixture.pair_config(config)


def _validate_trace(config: pytest.Config) -> None:
    if path := spec_of(config).routing_trace:
        from moe_harness.bench.routing_trace import read

        try:
            read(path)
        except ValueError as error:
            raise pytest.UsageError(f"--routing-trace {error}") from error


def _backends(config: pytest.Config) -> list[str]:
    """The backends asked for; without any, all that the registry knows. Of a pair the second, which is judged."""
    from moe_harness.implementations.registry import names

    spec = spec_of(config)
    return [spec.pair[1]] if spec.pair else list(dict.fromkeys(spec.backend or names()))


_CASES = pytest.StashKey["list[Case]"]()


def _cases(config: pytest.Config) -> list[Case]:
    """The user's checkpoints, or else the golden ones. UsageError if they do not open."""
    if _CASES not in config.stash:
        from moe_harness.cases.cases import checkpoint_case, golden_cases
        from moe_harness.implementations.interface import CheckpointError

        spec = spec_of(config)
        try:
            config.stash[_CASES] = [checkpoint_case(path) for path in spec.checkpoint] if spec.checkpoint else golden_cases(spec.golden)
        except (CheckpointError, FileNotFoundError) as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_CASES]


def _timed_cases(config: pytest.Config, definition: Any) -> list[Case]:
    """The user's checkpoints, or else the synthetic model of moe_harness.bench and, in the wide set, the single layers."""
    from moe_harness.bench.models import benchmark_case, layer_cases

    spec = spec_of(config)
    if spec.checkpoint:
        return _cases(config)
    workload = definition.get_closest_marker("workload")
    layers = spec.wide and workload is not None and workload.kwargs.get("layers")
    return [benchmark_case(), *(layer_cases() if layers else ())]


@pytest.fixture(scope="session")
def workshop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    from moe_harness.suite.subject import Workshop

    with surroundings.preparing(request.config, "the directory for temporary files"):
        directory = tmp_path_factory.mktemp("moe-harness")
    spec = spec_of(request.config)
    shop = Workshop(directory, spec.device, spec.thorough)
    yield shop
    shop.close()


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest, workshop: Workshop) -> Subject:
    """The backend under judgement, in one case and dtype. Raises Unavailable where it cannot run or a device is required and missing."""
    from moe_harness.suite.hosts import available

    return available(request.config, request.param, workshop)


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """Where a check puts its metrics and evidence; recorded when the check ends, however it ends."""
    from moe_harness.judge.verdict import Verdict

    request.node.stash[outcome.VERDICT] = Verdict()
    return request.node.stash[outcome.VERDICT]


@pytest.fixture
def timing(request: pytest.FixtureRequest, subject: Subject) -> Timing | PairTiming:
    """What a benchmark of moe_harness.bench is given: the gate and the clock, of two subjects under --pair."""
    from moe_harness.bench.models import ensure
    from moe_harness.bench.timing import Timing

    with surroundings.preparing(request.config, subject.case.checkpoint):
        ensure(subject.case, subject.dtype)
    subject.workshop.make_room(subject)
    record = request.node.stash[outcome.BENCH] = {"workload": request.node.get_closest_marker("workload").args[0]}
    benchmark = request.getfixturevalue("benchmark")
    if not spec_of(request.config).pair:
        return Timing(subject, benchmark, record)
    return pair_fixture.timing(request, subject, benchmark, record)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    own = [item for item in session.items if _is_own(item.path)]
    if own and not session.config.option.collectonly:
        with surroundings.needed(session.config):
            recording.start(session.config, own, _requested(session.config))


def _requested(config: pytest.Config) -> dict[str, Any]:
    spec = spec_of(config)
    return spec.requested() | ({"budget": budget.seconds(spec.budget)} if spec.budget else {})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if not _is_own(item.path):
        return report
    surroundings.heed(item.config, call.excinfo.value if call.excinfo else None)
    with surroundings.needed(item.config):
        return recording.conclude(item, call, report)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: every worker writes a shard of the controller's run directory."""
    node.workerinput |= {"moe_run_dir": str(recording.run_directory(node.config)), "moe_command": sys.argv}


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: Any) -> None:
    """xdist's controller: a worker died in this item."""
    with surroundings.needed(report.node.config):
        recording.conclude_crash(report.node, crashitem, report, _requested(report.node.config))


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    surroundings.node_down(node, error)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    with surroundings.needed(session.config):
        recording.finish(session, exitstatus)


def pytest_unconfigure(config: pytest.Config) -> None:
    with surroundings.needed(config):
        recording.seal_up(config)
    if spec_of(config).python:
        from moe_harness.suite.hosts import close

        close(config)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    recording.summarise(terminalreporter, config)
