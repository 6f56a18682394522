"""The templates of pages and cards, and how figures are written in them."""

from typing import Any

import jinja2

from cxr_ray.report.result_table import format_share


def open_templates(package: str) -> jinja2.Environment:
    """Open the templates that lie in a package.

    A name, a level or a title is text in them, whatever it holds; a figure that is not given is an
    error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = format_share
    environment.filters["signed"] = format_signed
    environment.filters["chance"] = format_chance
    environment.tests["missing"] = is_missing
    return environment


def format_signed(value: float | None) -> str:
    """Write a difference with its sign.

    Examples
    --------
    >>> format_signed(0.0123), format_signed(-0.0599), format_signed(0.0)
    ('+.0123', '-.0599', '.0000')
    """
    text = format_share(value)
    return f"+{text}" if value is not None and value > 0 else text


def format_chance(value: float | None) -> str:
    """Write a p-value; what is below .001 is said to be so.

    Examples
    --------
    >>> format_chance(0.00018), format_chance(0.0038), format_chance(None)
    ('<.001', '.0038', '-')
    """
    return "<.001" if value is not None and value < 0.001 else format_share(value)


def is_missing(value: Any) -> bool:
    """Tell whether a figure is None or not a number."""
    return value is None or bool(value != value)
