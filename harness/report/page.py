"""The sections, found by listing their folder, put into one self-contained HTML page."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from moe_harness.records.frame import Frame
from moe_harness.report import sections
from moe_harness.report.failures import groups
from moe_harness.report.slower import alerts
from moe_harness.report.template import render
from moe_harness.report.verdict import verdict


@dataclass(frozen=True)
class Section:
    """`title` "" means that the section brings its own heading."""

    name: str
    title: str
    order: int
    render: Callable[[Frame], str]


def find_sections() -> list[Section]:
    """Every module of `moe_harness.report.sections`, by ORDER, then name."""
    names = [module.name for module in pkgutil.iter_modules(sections.__path__)]
    modules = [(name, import_module(f"{sections.__name__}.{name}")) for name in names]
    found = [Section(name, module.TITLE, module.ORDER, module.render) for name, module in modules]
    return sorted(found, key=lambda section: (section.order, section.name))


def page(frame: Frame, home: str = "") -> str:
    """The whole page. A section that renders to nothing is left out. `home`: relative address of the site that the page is part of."""
    rendered = [(section, section.render(frame)) for section in find_sections()]
    calm = not groups(frame) and not alerts(frame)  # then the matrix gets the room of what failed
    return render("page", sections=[pair for pair in rendered if pair[1]], verdict=verdict(frame), home=home, calm=calm)
