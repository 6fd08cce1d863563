"""The jinja2 environment: everything is escaped, and a name that a template misspells is an error."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.filters import do_mark_safe

from moe_harness.records.status import status
from moe_harness.report import text
from moe_harness.report.order import short_dtype


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    numbers = (text.number, text.grouped, text.seconds, text.interval, text.ratio, text.multiple, text.memory)
    filters = (*numbers, text.shortened, breakable, status, short_dtype)
    environment.filters |= {function.__name__: function for function in filters}
    return environment


def safe(markup: str) -> str:
    """`markup`, marked (jinja's Markup, a str) so that no template escapes it again. For text that is escaped already, and for no other."""
    return do_mark_safe(markup)


def breakable(name: str) -> str:
    """A long name that may break behind the separators of its parts."""
    return safe("<wbr>".join(html.escape(part) for part in re.split(r"(?<=[:@/.])", name)))


def render(name: str, **context: Any) -> str:
    """`templates/<name>.html.j2` with `context`, escaped, and marked as such."""
    return safe(_environment().get_template(f"{name}.html.j2").render(context))
