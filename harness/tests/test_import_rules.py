"""Who may import whom, and what a module may do at import: rules over the syntax tree, each shown to fire on a deliberate violation.

A rule takes a `Module` (its name and text) and returns complaints; nothing is imported, so a rule also judges what cannot run here.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
JUDGE, BACKENDS = "moe_harness", "moe_harness.implementations"
FOLDERS = {"harness": JUDGE, "implementations": BACKENDS, "golden": "moe_harness.golden", "docs/studies/allclose": "allclose"}
SHARED = ("checkpoint", "common", "families", "formats", "kernels", "tests", "worker")  # folders of implementations/ that are no backend
CONTRACT = tuple(f"{BACKENDS}.{name}" for name in "interface registry checkpoint families worker kernels.loading common.memory".split())
PORTABLE = tuple(f"{BACKENDS}.{name}" for name in ("interface", "registry", "worker"))
# The house, top to bottom: a folder imports only what stands below it.
LAYERS = (
    ("cli",),
    ("build_golden", "selftest", "run"),
    ("diagnosis",),
    ("checks", "kernel", "bench"),
    ("suite",),
    ("repro",),
    ("cases",),
    ("judge", "mutants", "report"),
    ("oracle", "emulator", "records"),
    ("stats", "processes"),
)
LAYER = {room: depth for depth, rooms in enumerate(LAYERS) for room in rooms}
IMPORTERS = {"import_module", "__import__", "importorskip"}
FILE_MODULES = set("os pathlib io shutil tempfile glob fileinput mmap sqlite3 socket subprocess urllib http dbm shelve pickle".split())
FILE_CALLS = set("open load loadtxt genfromtxt fromfile memmap save savez savez_compressed savetxt tofile".split())
EFFECT_CALLS = set(
    "open exec eval print input __import__ import_module getenv read_text read_bytes write_text write_bytes mkdir chdir putenv system "
    "Popen check_call check_output urlopen filterwarnings simplefilter basicConfig".split()
)
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Pass)


@dataclass(frozen=True)
class Module:
    """`name` is dotted; `is_package`: the text of an `__init__.py`."""

    name: str
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


def within(name: str, *roots: str) -> bool:
    """`name` is one of `roots` or lies below one."""
    return any(name == root or name.startswith(root + ".") for root in roots)


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import anywhere in the module: statements, and calls that import a literal name."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _callee(node) in IMPORTERS and node.args and isinstance(node.args[0], ast.Constant):
            yield node.lineno, str(node.args[0].value)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    parts = module.name.split(".")
    drop = node.level - (1 if module.is_package else 0)
    base = parts[: len(parts) - drop] if node.level else []
    return ".".join(base + ([node.module] if node.module else []))


def _callee(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _complain(module: Module, forbidden: Callable[[str], bool], why: str) -> list[str]:
    return [f"{module.name}:{line} imports {name}: {why}" for line, name in imports(module) if forbidden(name)]


def _is_of_the_judge(module: Module) -> bool:
    return within(module.name, JUDGE) and not within(module.name, BACKENDS, f"{JUDGE}.golden")


def _room(name: str) -> str:
    """The folder of harness/ that a dotted name lies in; "" for the package itself."""
    return name.split(".")[1] if "." in name else ""


def _is_standard(name: str) -> bool:
    return name.split(".")[0] in sys.stdlib_module_names


def implementations_never_import_the_harness(module: Module) -> list[str]:
    """The example of a third party's backend, which the tests link to, imports the contract as a third party does."""
    if not within(module.name, BACKENDS):
        return []
    own = (BACKENDS, f"{JUDGE}.interface") if within(module.name, f"{BACKENDS}.tests") else (BACKENDS,)
    return _complain(module, lambda name: within(name, JUDGE) and not within(name, *own), "implementations never import the harness")


def backends_never_import_each_other(module: Module) -> list[str]:
    parts = module.name.removeprefix(f"{BACKENDS}.").split(".")
    if not within(module.name, BACKENDS) or parts[0] not in backend_folders():
        return []
    others = [f"{BACKENDS}.{name}" for name in backend_folders() if name != parts[0]]
    return _complain(module, lambda name: within(name, *others), "a backend never imports another")


def harness_imports_only_the_contract(module: Module) -> list[str]:
    if not _is_of_the_judge(module) or within(module.name, f"{JUDGE}.tests"):
        return []
    return _complain(
        module, lambda name: within(name, BACKENDS) and name != BACKENDS and not within(name, *CONTRACT), "not part of the contract"
    )


def harness_never_imports_a_framework(module: Module) -> list[str]:
    if not _is_of_the_judge(module):
        return []
    return _complain(module, lambda name: within(name, "torch", "transformers"), "the judge has no framework")


def arrows_run_downwards(module: Module) -> list[str]:
    """A folder of the harness imports only folders of lower layers; nothing but cli/ and the public interface stands at the top."""
    room = _room(module.name)
    if not _is_of_the_judge(module) or room in ("tests", "interface", "__main__", ""):
        return []
    if room not in LAYER:
        return [f"{module.name}: no layer is named for {room}/, see LAYERS"]

    def forbidden(name: str) -> bool:
        other = _room(name)
        return within(name, JUDGE) and not within(name, BACKENDS) and other not in ("", room) and LAYER.get(other, -1) <= LAYER[room]

    return _complain(module, forbidden, "arrows run downwards only")


def oracle_and_judge_are_pure(module: Module) -> list[str]:
    own = (f"{JUDGE}.oracle", f"{JUDGE}.judge")
    if not within(module.name, *own):
        return []
    allowed = (f"{BACKENDS}.interface", "numpy", "scipy", *own)

    def forbidden(name: str) -> bool:
        return not within(name, *allowed) and (not _is_standard(name) or name.split(".")[0] in FILE_MODULES)

    calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call) and _callee(node) in FILE_CALLS)
    reads = [f"{module.name}:{node.lineno} calls {_callee(node)}: oracle and judge touch no file" for node in calls]
    return _complain(module, forbidden, "oracle and judge see interface types, numpy, scipy and the standard library without files") + reads


def statistics_are_pure(module: Module) -> list[str]:
    if not within(module.name, f"{JUDGE}.stats"):
        return []
    allowed = ("numpy", "scipy", f"{JUDGE}.stats")
    return _complain(module, lambda name: not within(name, *allowed) and not _is_standard(name), "statistics see numbers only")


def rules_of_the_allclose_study_are_pure(module: Module) -> list[str]:
    """They see arrays; what runs models lies beside them."""
    if not within(module.name, *(f"allclose.{name}" for name in ("evidence", "rules", "two_way", "three_way"))):
        return []
    allowed = ("numpy", f"{JUDGE}.judge.distance", "allclose.evidence", "allclose.two_way", "allclose.three_way")

    def forbidden(name: str) -> bool:
        return not within(name, *allowed) and (not _is_standard(name) or name.split(".")[0] in FILE_MODULES)

    return _complain(module, forbidden, "a rule is a function of arrays")


def report_reads_records_only(module: Module) -> list[str]:
    """Runs are shown and compared by what they recorded."""
    if not within(module.name, f"{JUDGE}.report"):
        return []
    allowed = (*(f"{JUDGE}.{name}" for name in ("records", "stats", "report")), "pandas", "numpy", "jinja2", "matplotlib")
    if within(module.name, f"{JUDGE}.report.compare"):
        allowed = (*allowed, "scipy")  # what is verified is computed by other means than the report's own
    return _complain(
        module, lambda name: not within(name, *allowed) and not _is_standard(name), "the report sees records and statistics only"
    )


def records_stand_alone(module: Module) -> list[str]:
    """jsonschema is an extra."""
    if not within(module.name, f"{JUDGE}.records"):
        return []
    allowed = (f"{JUDGE}.records", "pandas", "numpy", "jsonschema", "referencing")
    return _complain(module, lambda name: not within(name, *allowed) and not _is_standard(name), "records are a leaf")


def portable_modules_need_numpy_only(module: Module) -> list[str]:
    """Python 3.9 syntax too, and two common calls that parse there and fail when they run."""
    if not within(module.name, *PORTABLE):
        return []
    try:
        ast.parse(module.text, feature_version=(3, 9))
    except SyntaxError as error:
        return [f"{module.name}:{error.lineno} is not Python 3.9: {error.msg}"]
    calls = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    newer = {("zip", "strict"), ("dataclass", "slots"), ("dataclass", "kw_only")}
    late = [
        f"{module.name}:{node.lineno} {_callee(node)}({word.arg}=) is not Python 3.9"
        for node in calls
        for word in node.keywords
        if (_callee(node), word.arg) in newer
    ]
    known = ("numpy", *PORTABLE)
    return late + _complain(module, lambda name: not within(name, *known) and not _is_standard(name), "standard library and numpy only")


def packages_say_what_they_are(module: Module) -> list[str]:
    if module.is_package and not ast.get_docstring(module.tree):
        return [f"{module.name}: __init__.py has no docstring"]
    return []


def importing_has_no_effect(module: Module) -> list[str]:
    """In tests, `pytest.importorskip(...)` counts as the import that it is."""
    skips = [node for node in module.tree.body if ".tests." in module.name and ast.unparse(node).startswith("pytest.importorskip(")]
    lines = {node.lineno for node in skips}
    return [f"{module.name}:{line} {what} at import" for line, what in _effects(module.tree.body) if line not in lines]


def _effects(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    for node in body:
        if isinstance(node, ast.If) and _is_guard(node.test):
            continue
        if not isinstance(node, DEFINITIONS) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield node.lineno, f"runs a {type(node).__name__} statement"
        elif isinstance(node, ast.ClassDef):
            yield from _effects(node.body)
        for call in _calls_at_import(node):
            if _callee(call) in EFFECT_CALLS:
                yield call.lineno, f"calls {_callee(call)}"


def _is_guard(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")


def _calls_at_import(node: ast.stmt) -> Iterator[ast.Call]:
    """Calls that run when the statement does: not those inside the bodies of functions, nor (they are visited apart) of classes."""
    evaluated: list[ast.AST] = [node]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        evaluated = [*node.decorator_list, *node.args.defaults, *(default for default in node.args.kw_defaults if default)]
    elif isinstance(node, ast.ClassDef):
        evaluated = [*node.decorator_list, *node.bases, *node.keywords]
    while evaluated:
        item = evaluated.pop()
        if isinstance(item, ast.Call):
            yield item
        evaluated += [child for child in ast.iter_child_nodes(item) if not isinstance(child, ast.Lambda)]


RULES = (
    implementations_never_import_the_harness, backends_never_import_each_other, harness_imports_only_the_contract,
    harness_never_imports_a_framework, arrows_run_downwards, oracle_and_judge_are_pure, statistics_are_pure,
    rules_of_the_allclose_study_are_pure, report_reads_records_only, records_stand_alone, portable_modules_need_numpy_only,
    packages_say_what_they_are, importing_has_no_effect,
)  # fmt: skip


def backend_folders() -> list[str]:
    """Every folder of implementations/ that is not shared. `hf` and `native` stand for themselves even where one is being rewritten."""
    found = {path.name for path in (REPO / "implementations").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    return sorted((found | {"hf", "native"}) - set(SHARED))


def project_modules() -> list[Module]:
    return [_module(top, file) for top in FOLDERS for file in sorted((REPO / top).rglob("*.py"))]


def _module(top: str, file: Path) -> Module:
    relative = file.relative_to(REPO / top)
    parts = relative.parent.parts if file.name == "__init__.py" else relative.with_suffix("").parts
    return Module(".".join([FOLDERS[top], *parts]), file.read_text("utf-8"), file.name == "__init__.py")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_obeys(rule):
    complaints = [complaint for module in project_modules() for complaint in rule(module)]
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_rules_see_the_project():
    """A walk that finds nothing would let every rule pass."""
    names = {module.name for module in project_modules()}
    assert {JUDGE, BACKENDS, f"{BACKENDS}.interface", f"{BACKENDS}.families.mixtral", "allclose.rules", __name__} <= names
    assert {"hf", "native"} <= set(backend_folders()) and not set(SHARED) & set(backend_folders())
    interface = next(module for module in project_modules() if module.name == f"{BACKENDS}.interface")
    assert {"dataclasses.dataclass", "numpy"} <= {name for _, name in imports(interface)}


def test_every_folder_with_python_is_a_package():
    folders = {file.parent for top in FOLDERS for file in (REPO / top).rglob("*.py")}
    assert not [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()]


def test_the_distribution_lists_every_package():
    """setuptools cannot find packages through the mapping of folders to one import name: what the list lacks would miss the wheel."""
    listed = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    there = [module.name for module in project_modules() if module.is_package and within(module.name, JUDGE)]
    assert sorted(listed) == sorted(there) and len(set(listed)) == len(listed)


def graph(modules: Sequence[Module]) -> dict[str, set[str]]:
    """Module -> the modules of the project that it imports, inside functions too; a package's own modules do not count, nor does an import
    for annotations alone."""
    known = {module.name for module in modules}
    found: dict[str, set[str]] = {}
    for module in modules:
        annotations = _lines_for_annotations(module)
        targets = {name if name in known else name.rpartition(".")[0] for line, name in imports(module) if line not in annotations}
        found[module.name] = {name for name in targets & known if name != module.name and not within(module.name, name)}
    return found


def _lines_for_annotations(module: Module) -> set[int]:
    guards = (node for node in ast.walk(module.tree) if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
    return {line for node in guards for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def by_folder(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between the folders of implementations/."""
    folders: dict[str, set[str]] = {}
    for name, targets in arrows.items():
        inside = {_folder(target) for target in targets if within(target, BACKENDS)}
        folders.setdefault(_folder(name), set()).update(inside - {_folder(name)})
    return folders


def _folder(name: str) -> str:
    return ".".join(name.split(".")[:3])


def ring(arrows: Mapping[str, set[str]]) -> list[str]:
    """One ring, its first module again at its end; nothing where there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_stands_on_a_ring():
    assert not ring(graph([module for module in project_modules() if ".tests." not in module.name]))


def test_no_folder_of_implementations_stands_on_a_ring():
    arrows = graph([module for module in project_modules() if within(module.name, BACKENDS) and ".tests." not in module.name])
    assert not ring(by_folder(arrows))


def test_a_ring_is_seen():
    first, back = Module("moe_harness.a.x", "from moe_harness.b import y"), "def f():\n    from moe_harness.a import x"
    assert set(ring(graph([first, Module("moe_harness.b.y", back)]))) == {"moe_harness.a.x", "moe_harness.b.y"}
    assert not ring(graph([first, Module("moe_harness.b.y", "")]))
    assert not ring(graph([first, Module("moe_harness.b.y", "if TYPE_CHECKING:\n    from moe_harness.a import x")]))


def test_the_house_has_at_most_twenty_rooms(capsys: pytest.CaptureFixture[str]):
    """Prints the graph (`pytest -s`): one line a room, with the rooms it imports."""
    arrows: dict[str, set[str]] = {}
    for module in project_modules():
        if _is_of_the_judge(module) and _room(module.name) in LAYER:
            inside = {_room(name) for _, name in imports(module) if within(name, JUDGE) and not within(name, BACKENDS)}
            arrows.setdefault(_room(module.name), set()).update(inside & LAYER.keys() - {_room(module.name)})
    for room in sorted(arrows, key=lambda room: (LAYER[room], room)):
        print(f"{room:>12} -> {', '.join(sorted(arrows[room], key=lambda other: (LAYER[other], other))) or '(a leaf)'}")
    printed = capsys.readouterr().out
    print(printed)
    assert printed.count("\n") == len(LAYER) == len(arrows)
    folders = {path.name for path in (REPO / "harness").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == LAYER.keys() | {"tests"} and len(folders) <= 20


VIOLATIONS = [
    (implementations_never_import_the_harness, "moe_harness.implementations.native.backend", "import moe_harness.records.record"),
    (implementations_never_import_the_harness, "moe_harness.implementations.tests.test_x", "def f():\n    from moe_harness import records"),
    (implementations_never_import_the_harness, "moe_harness.implementations.registry", "importlib.import_module('moe_harness.run.plugin')"),
    (
        backends_never_import_each_other,
        "moe_harness.implementations.hf.backend",
        "from moe_harness.implementations.native.model import Model",
    ),
    (backends_never_import_each_other, "moe_harness.implementations.hf.backend", "from ..native import model"),
    (backends_never_import_each_other, "moe_harness.implementations.native.backend", "from moe_harness.implementations import hf"),
    (harness_imports_only_the_contract, "moe_harness.cli.app", "from moe_harness.implementations.hf.backend import backend"),
    (harness_imports_only_the_contract, "moe_harness.cases.cases", "from moe_harness.implementations.common import batch"),
    (harness_never_imports_a_framework, "moe_harness.bench.timing", "if TYPE_CHECKING:\n    import torch"),
    (harness_never_imports_a_framework, "moe_harness.tests.test_x", "def f():\n    pytest.importorskip('transformers.models')"),
    (oracle_and_judge_are_pure, "moe_harness.oracle.model", "import pandas as pd"),
    (oracle_and_judge_are_pure, "moe_harness.judge.rounding", "from pathlib import Path"),
    (oracle_and_judge_are_pure, "moe_harness.judge.rounding", "from moe_harness.implementations.families.weights import scatter"),
    (oracle_and_judge_are_pure, "moe_harness.judge.rounding", "from moe_harness.records.record import Record"),
    (oracle_and_judge_are_pure, "moe_harness.oracle.model", "def f(path):\n    return np.load(path)"),
    (oracle_and_judge_are_pure, "moe_harness.oracle.model", "def f(path):\n    return open(path)"),
    (rules_of_the_allclose_study_are_pure, "allclose.two_way", "from moe_harness.suite.subject import Subject"),
    (rules_of_the_allclose_study_are_pure, "allclose.rules", "from allclose import runs"),
    (report_reads_records_only, "moe_harness.report.html", "from moe_harness.judge import verdict"),
    (report_reads_records_only, "moe_harness.report.html", "import scipy.stats"),
    (report_reads_records_only, "moe_harness.report.compare.diff", "from moe_harness.run.plugin import HERE"),
    (statistics_are_pure, "moe_harness.stats.changepoints", "import ruptures"),
    (arrows_run_downwards, "moe_harness.judge.flips", "from moe_harness.suite import subject"),
    (arrows_run_downwards, "moe_harness.run.launch", "def f():\n    from moe_harness.selftest import measure"),
    (arrows_run_downwards, "moe_harness.newcomer.x", ""),
    (statistics_are_pure, "moe_harness.stats.interval", "from moe_harness.records import frame"),
    (records_stand_alone, "moe_harness.records.frame", "from moe_harness.report import verdict"),
    (portable_modules_need_numpy_only, "moe_harness.implementations.interface", "import ml_dtypes"),
    (
        portable_modules_need_numpy_only,
        "moe_harness.implementations.worker",
        "from moe_harness.implementations.checkpoint.checkpoint import Checkpoint",
    ),
    (
        portable_modules_need_numpy_only,
        "moe_harness.implementations.worker.far",
        "from moe_harness.implementations.families import weights",
    ),
    (portable_modules_need_numpy_only, "moe_harness.implementations.registry", "match x:\n    case 1: pass"),
    (portable_modules_need_numpy_only, "moe_harness.implementations.worker", "def f(a, b):\n    return zip(a, b, strict=True)"),
    (importing_has_no_effect, "moe_harness.cli.app", "main()"),
    (importing_has_no_effect, "moe_harness.implementations.native.backend", "pytest.importorskip('torch')"),
    (importing_has_no_effect, "moe_harness.cli.app", "for x in y:\n    z = x"),
    (importing_has_no_effect, "moe_harness.cli.app", "try:\n    import torch\nexcept ImportError:\n    torch = None"),
    (importing_has_no_effect, "moe_harness.cli.app", "DATA = open('x').read()"),
    (importing_has_no_effect, "moe_harness.cli.app", "class A:\n    DATA = Path('x').read_text()"),
    (importing_has_no_effect, "moe_harness.cli.app", "def f(x=os.getenv('X')): pass"),
    (importing_has_no_effect, "moe_harness.cli.app", "if os.name == 'nt':\n    X = 1"),
]


@pytest.mark.parametrize("rule, name, text", VIOLATIONS)
def test_a_rule_fires_on_a_violation(rule, name, text):
    complaints = rule(Module(name, text))
    assert complaints and all(complaint.startswith(f"{name}:") for complaint in complaints)


def test_a_package_without_a_docstring_is_a_violation():
    assert packages_say_what_they_are(Module("moe_harness.bench", "X = 1", is_package=True))
    assert not packages_say_what_they_are(Module("moe_harness.bench.x", "X = 1"))


def test_every_rule_is_shown_to_fire():
    assert {rule for rule, _, _ in VIOLATIONS} | {packages_say_what_they_are} == set(RULES)


ALLOWED = [
    (
        "moe_harness.implementations.hf.backend",
        "import torch\nfrom moe_harness.implementations.families import weights\nfrom . import config\nfrom .model import M",
    ),
    ("moe_harness.implementations.tests.test_x", "from moe_harness.implementations.hf.backend import backend\nimport transformers"),
    ("moe_harness.implementations.tests.test_x", "pytest.importorskip('torch')\ntorch = pytest.importorskip('torch')"),
    (
        "moe_harness.cli.app",
        "from moe_harness.implementations import registry\nfrom moe_harness.implementations.families import family\nimport typer",
    ),
    ("moe_harness.tests.test_x", "from moe_harness.implementations.native.backend import backend"),
    ("moe_harness.oracle.model", "import math\nfrom scipy import stats\nfrom moe_harness.oracle import routing"),
    ("moe_harness.report.html", "from .frame import frame\nimport json\nfrom moe_harness.records import record\nfrom pathlib import Path"),
    ("moe_harness.implementations.worker", "import struct, numpy as np\nfrom moe_harness.implementations.interface import Model"),
    (
        "moe_harness.implementations.worker.far",
        "import socket\nfrom moe_harness.implementations import interface, registry\nfrom moe_harness.implementations.worker import wire",
    ),
    ("moe_harness.cli.x", "'Doc.'\nX: int = len('abc')\ndef f():\n    print(open('x'))\nif __name__ == '__main__':\n    f()"),
    ("torchlike", "import moe_harness.report"),
]


@pytest.mark.parametrize("name, text", ALLOWED)
def test_no_rule_fires_on_what_is_allowed(name, text):
    assert [complaint for rule in RULES for complaint in rule(Module(name, text))] == []
