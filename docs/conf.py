"""Sphinx configuration, and what writes the reference of options into its page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

from oslo_config import cfg, types
from sphinx.application import Sphinx

from imgstore.config import list_opts
from imgstore.config.loading import installed_drivers

project = "imgstore"
author = "the imgstore authors"
copyright = "the imgstore authors, Apache-2.0"
version = release = metadata.version("imgstore")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.graphviz"]
graphviz_output_format = "svg"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"imgstore {release}"
nitpicky = True
autodoc_typehints = "none"  # types would need the references of every package that they come from
autodoc_member_order = "bysource"

MARKER = re.compile(r"^% options of (library|drivers)$", re.MULTILINE)
TYPES = {
    types.Integer: "whole number",
    types.Float: "number",
    types.Boolean: "true or false",
    types.List: "list, separated by commas",
    types.Dict: "list of `name:value`, separated by commas",
    types.MultiString: "text, may be given many times",
    types.String: "text",
}


def setup(app: Sphinx) -> None:
    """Connect what follows."""
    app.connect("source-read", insert_options)
    app.connect("autodoc-process-docstring", drop_module_docstring)


def insert_options(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the markers in a page by the options, as the installed package has them."""
    write = {"library": library_options, "drivers": driver_options}
    source[0] = MARKER.sub(lambda marker: "\n".join(write[marker[1]]()), source[0])


def drop_module_docstring(app: Sphinx, what: str, *rest: Any) -> None:
    """Leave the drawing at the top of a module to the page that includes it as text."""
    if what == "module":
        rest[-1].clear()


def library_options() -> Iterator[str]:
    """Write the options that belong to no driver, by group."""
    of_drivers = {opt.dest for driver in installed_drivers() for opt in driver.OPTIONS.values()}
    for group, opts in list_opts():
        name = "DEFAULT" if group is None else group.name
        yield f"### `[{name}]`\n"
        if name == "backend_defaults":
            yield "What a store's own group does not set is taken from here.\n"
        for opt in opts:
            if opt.dest not in of_drivers:
                yield from describe(opt)


def driver_options() -> Iterator[str]:
    """Write the options of each driver under the names that it is registered by."""
    for driver in installed_drivers():
        found = [e for e in metadata.entry_points(group="imgstore.drivers") if e.load() is driver]
        names = " or ".join(f"`{name}`" for name in sorted(entry.name for entry in found))
        yield f"### {names}\n\n`{found[0].value.replace(':', '.')}`\n"
        if not driver.OPTIONS:
            yield "It has no options of its own.\n"
        for keyword, opt in driver.OPTIONS.items():
            default = inspect.signature(driver).parameters[keyword].default
            yield from describe(opt, keyword, required=default is inspect.Parameter.empty)


def describe(opt: cfg.Opt, keyword: str = "", *, required: bool = False) -> Iterator[str]:
    """Write one option as Sphinx's object for configuration values."""
    yield f"```{{confval}} {opt.name}"
    kind = next((text for of, text in TYPES.items() if isinstance(opt.type, of)), "text")
    yield f":type: {kind}{limits(opt)}"
    yield f":default: {'required' if required else shown(opt.default)}"
    yield f"\n{escape(opt.help)}"
    if keyword:
        yield f"\nKeyword of the constructor: `{keyword}`."
    if opt.secret:
        yield "\nSecret: it is never printed."
    for old in opt.deprecated_opts:
        yield f"\nAlso read as `{old.name}`."
    yield "```\n"


def limits(opt: cfg.Opt) -> str:
    """Return what bounds the values, after a comma."""
    names = {"min": "at least", "max": "at most"}
    bounds = {word: getattr(opt.type, name, None) for name, word in names.items()}
    found = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
    found += [f"one of {', '.join(opt.type.choices)}"] if getattr(opt.type, "choices", None) else []
    return "".join(f", {each}" for each in found)


def shown(default: Any) -> str:
    """Return a default as it would stand in a file."""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, Iterable) and not isinstance(default, str):
        default = ", ".join(map(str, default))
    return "none" if default in {None, ""} else f"`{default}`"


def escape(text: str) -> str:
    """Return text in which Markdown sees no markup."""
    return re.sub(r"([*<>`\[\]\\])", r"\\\1", text)
