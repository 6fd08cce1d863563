"""Who may import whom, and what a module may do at import: rules over the syntax tree, each shown to fire on a deliberate violation.

A rule takes a `Module` (its name and text) and returns complaints; nothing is imported, so a rule also judges what cannot run here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SHARED = ("families", "formats", "kernels", "tests", "worker")  # folders of implementations/ that are no backend
CONTRACT = tuple(
    f"implementations.{name}" for name in "interface registry checkpoint checkpoint_writer weights families worker kernels.loading".split()
)
PORTABLE = ("moe_harness.implementations.interface", "moe_harness.implementations.registry", "moe_harness.implementations.worker")
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


def _is_standard(name: str) -> bool:
    return name.split(".")[0] in sys.stdlib_module_names


def implementations_never_import_the_harness(module: Module) -> list[str]:
    if not within(module.name, "implementations"):
        return []
    return _complain(module, lambda name: within(name, "harness"), "implementations never import harness")


def backends_never_import_each_other(module: Module) -> list[str]:
    parts = module.name.split(".")
    if parts[0] != "implementations" or len(parts) < 2 or parts[1] not in backend_folders():
        return []
    others = [f"implementations.{name}" for name in backend_folders() if name != parts[1]]
    return _complain(module, lambda name: within(name, *others), "a backend never imports another")


def harness_imports_only_the_contract(module: Module) -> list[str]:
    if not within(module.name, "harness") or within(module.name, "moe_harness.tests"):
        return []
    return _complain(module, lambda name: within(name, "implementations") and not within(name, *CONTRACT), "not part of the contract")


def harness_never_imports_a_framework(module: Module) -> list[str]:
    if not within(module.name, "harness"):
        return []
    return _complain(module, lambda name: within(name, "torch", "transformers"), "the judge has no framework")


def oracle_and_judge_are_pure(module: Module) -> list[str]:
    if not within(module.name, "moe_harness.oracle", "moe_harness.judge"):
        return []
    allowed = ("moe_harness.implementations.interface", "numpy", "scipy", "moe_harness.oracle", "moe_harness.judge")

    def forbidden(name: str) -> bool:
        return not within(name, *allowed) and (not _is_standard(name) or name.split(".")[0] in FILE_MODULES)

    calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call) and _callee(node) in FILE_CALLS)
    reads = [f"{module.name}:{node.lineno} calls {_callee(node)}: oracle and judge touch no file" for node in calls]
    return _complain(module, forbidden, "oracle and judge see interface types, numpy, scipy and the standard library without files") + reads


def rules_of_today_are_pure(module: Module) -> list[str]:
    """They see arrays; what runs models lies beside them."""
    if not within(module.name, *(f"allclose.{name}" for name in ("evidence", "rules", "two_way", "three_way"))):
        return []
    allowed = ("numpy", "moe_harness.judge.distance", "allclose.evidence", "allclose.two_way", "allclose.three_way")

    def forbidden(name: str) -> bool:
        return not within(name, *allowed) and (not _is_standard(name) or name.split(".")[0] in FILE_MODULES)

    return _complain(module, forbidden, "a rule is a function of arrays")


def report_reads_records_only(module: Module) -> list[str]:
    if not within(module.name, "moe_harness.report"):
        return []
    allowed = (
        "moe_harness.records.record",
        "moe_harness.records.shard",
        "moe_harness.report",
        "moe_harness.report.compare",
        "pandas",
        "numpy",
        "jinja2",
        "matplotlib",
    )
    return _complain(module, lambda name: not within(name, *allowed) and not _is_standard(name), "the report sees records only")


def history_reads_records_and_reports(module: Module) -> list[str]:
    """Runs are compared by what they recorded; jsonschema is an extra."""
    if not within(module.name, "moe_harness.report.compare"):
        return []
    allowed = (
        "moe_harness.records.record",
        "moe_harness.records.shard",
        "moe_harness.report",
        "moe_harness.report.compare",
        "pandas",
        "numpy",
        "scipy",
        "jsonschema",
        "referencing",
    )
    return _complain(module, lambda name: not within(name, *allowed) and not _is_standard(name), "history sees records and reports only")


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
    harness_never_imports_a_framework, oracle_and_judge_are_pure, rules_of_today_are_pure, report_reads_records_only,
    history_reads_records_and_reports, portable_modules_need_numpy_only, packages_say_what_they_are, importing_has_no_effect,
)  # fmt: skip


def backend_folders() -> list[str]:
    """Every folder of implementations/ that is not shared. `hf` and `native` stand for themselves even where one is being rewritten."""
    found = {path.name for path in (REPO / "implementations").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    return sorted((found | {"hf", "native"}) - set(SHARED))


def project_modules() -> list[Module]:
    files = sorted(file for top in ("golden", "harness", "implementations") for file in (REPO / top).rglob("*.py"))
    return [_module(file) for file in files]


def _module(file: Path) -> Module:
    relative = file.relative_to(REPO)
    parts = relative.parent.parts if file.name == "__init__.py" else relative.with_suffix("").parts
    return Module(".".join(parts), file.read_text("utf-8"), file.name == "__init__.py")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_obeys(rule):
    complaints = [complaint for module in project_modules() for complaint in rule(module)]
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_rules_see_the_project():
    """A walk that finds nothing would let every rule pass."""
    names = {module.name for module in project_modules()}
    assert {
        "harness",
        "implementations",
        "moe_harness.implementations.interface",
        "moe_harness.implementations.families.mixtral",
        __name__,
    } <= names
    assert {"hf", "native"} <= set(backend_folders()) and not set(SHARED) & set(backend_folders())
    interface = next(module for module in project_modules() if module.name == "moe_harness.implementations.interface")
    assert {"dataclasses.dataclass", "numpy"} <= {name for _, name in imports(interface)}


def test_every_folder_with_python_is_a_package():
    folders = {file.parent for top in ("golden", "harness", "implementations") for file in (REPO / top).rglob("*.py")}
    assert not [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()]


VIOLATIONS = [
    (implementations_never_import_the_harness, "moe_harness.implementations.native.backend", "import moe_harness.records.record"),
    (implementations_never_import_the_harness, "moe_harness.implementations.tests.test_x", "def f():\n    from harness import record"),
    (implementations_never_import_the_harness, "moe_harness.implementations.registry", "importlib.import_module('moe_harness.run.plugin')"),
    (
        backends_never_import_each_other,
        "moe_harness.implementations.hf.backend",
        "from moe_harness.implementations.native.model import Model",
    ),
    (backends_never_import_each_other, "moe_harness.implementations.hf.backend", "from ..native import model"),
    (backends_never_import_each_other, "moe_harness.implementations.native.backend", "from implementations import hf"),
    (harness_imports_only_the_contract, "moe_harness.cli.app", "from moe_harness.implementations.hf.backend import backend"),
    (harness_imports_only_the_contract, "moe_harness.cases.cases", "import implementations"),
    (harness_never_imports_a_framework, "moe_harness.bench.timing", "if TYPE_CHECKING:\n    import torch"),
    (harness_never_imports_a_framework, "moe_harness.tests.test_x", "def f():\n    pytest.importorskip('transformers.models')"),
    (oracle_and_judge_are_pure, "moe_harness.oracle.model", "import pandas as pd"),
    (oracle_and_judge_are_pure, "moe_harness.judge.rounding", "from pathlib import Path"),
    (oracle_and_judge_are_pure, "moe_harness.judge.rounding", "from moe_harness.implementations.families.weights import scatter"),
    (oracle_and_judge_are_pure, "moe_harness.judge.rounding", "from moe_harness.records.record import Record"),
    (oracle_and_judge_are_pure, "moe_harness.oracle.model", "def f(path):\n    return np.load(path)"),
    (oracle_and_judge_are_pure, "moe_harness.oracle.model", "def f(path):\n    return open(path)"),
    (rules_of_today_are_pure, "allclose.two_way", "from moe_harness.suite.subject import Subject"),
    (rules_of_today_are_pure, "allclose.rules", "from allclose import runs"),
    (report_reads_records_only, "moe_harness.report.html", "from moe_harness.judge import verdict"),
    (report_reads_records_only, "moe_harness.report.html", "import scipy.stats"),
    (history_reads_records_and_reports, "moe_harness.report.compare.diff", "from moe_harness.run.plugin import HERE"),
    (history_reads_records_and_reports, "moe_harness.stats.changepoints", "import ruptures"),
    (portable_modules_need_numpy_only, "moe_harness.implementations.interface", "import ml_dtypes"),
    (
        portable_modules_need_numpy_only,
        "moe_harness.implementations.worker",
        "from moe_harness.implementations.checkpoint.checkpoint import Checkpoint",
    ),
    (portable_modules_need_numpy_only, "moe_harness.implementations.worker.far", "from implementations import weights"),
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
        "import torch\nfrom implementations import weights\nfrom . import config\nfrom .model import M",
    ),
    ("moe_harness.implementations.tests.test_x", "from moe_harness.implementations.hf.backend import backend\nimport transformers"),
    ("moe_harness.implementations.tests.test_x", "pytest.importorskip('torch')\ntorch = pytest.importorskip('torch')"),
    ("moe_harness.cli.app", "from implementations import registry\nfrom moe_harness.implementations.families import family\nimport typer"),
    ("moe_harness.tests.test_x", "from moe_harness.implementations.native.backend import backend"),
    ("moe_harness.oracle.model", "import math\nfrom scipy import stats\nfrom moe_harness.oracle import routing"),
    ("moe_harness.report.html", "from .frame import frame\nimport json\nfrom harness import record\nfrom pathlib import Path"),
    ("moe_harness.implementations.worker", "import struct, numpy as np\nfrom moe_harness.implementations.interface import Model"),
    (
        "moe_harness.implementations.worker.far",
        "import socket\nfrom implementations import interface, registry\nfrom moe_harness.implementations.worker import wire",
    ),
    ("moe_harness.x", "'Doc.'\nX: int = len('abc')\ndef f():\n    print(open('x'))\nif __name__ == '__main__':\n    f()"),
    ("torchlike", "import harness"),
]


@pytest.mark.parametrize("name, text", ALLOWED)
def test_no_rule_fires_on_what_is_allowed(name, text):
    assert [complaint for rule in RULES for complaint in rule(Module(name, text))] == []
