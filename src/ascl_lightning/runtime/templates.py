"""Jinja templates of the package, rendered to HTML or Markdown."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape


def render(template: str, **values: Any) -> str:
    """Renders a template; in HTML every value is escaped.

    Args:
        template: Path of the template inside the package.
        values: Variables of the template.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    """Compiles each template once."""
    loader = PackageLoader("ascl_lightning", "")
    return Environment(loader=loader, autoescape=select_autoescape(["html.jinja"]))
