"""How Sphinx makes the site: the pages of this repository as they are, and a reference out of the docstrings.

The source directory is the repository, so that each relative link means the same here and where somebody
reads the page in the repository: `make docs`.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package of this checkout, whichever is installed

from sphinx.util import inspect, logging  # noqa: E402

from airflow_provider_pai import __version__, get_provider_info  # noqa: E402
from airflow_provider_pai._base import Arguments  # noqa: E402
from airflow_provider_pai.connection_form import FIELDS  # noqa: E402

NAVIGATION = {
    "Start": ["docs/installing", "docs/first-dag", "docs/connection", "docs/credentials", "docs/permissions"],
    "Use": [
        *("docs/waiting", "docs/gating", "docs/tracking", "docs/releasing-models", "docs/filesystems"),
        *("docs/how-to", "docs/examples", "docs/testing", "docs/troubleshooting"),
    ],
    "Reference": [
        *("docs/hook", "docs/reference/operators", "docs/reference/sensors", "docs/reference/triggers"),
        "docs/reference/gating",
        *("docs/reference/hook", "docs/reference/settings", "docs/reference/api", "docs/reference/testing"),
    ],
    "Background": ["docs/versions", "docs/fidelity", "docs/conformance", "docs/benchmarks"],
    "Project": ["CHANGELOG", "CONTRIBUTING", "SECURITY", "docs/releasing"],
}
"""The pages after README, which is the first one. Sphinx warns of a page that is missing here."""

BESIDE = ["airflow_provider_pai.api", "airflow_provider_pai.emulator", "airflow_provider_pai.windows"]
"""Modules with public names that Airflow need not know, and the provider's metadata does not name."""

project = "airflow-provider-pai"
author = "the contributors of airflow-provider-pai"
copyright = f"{author}, Apache-2.0"
release = version = __version__

root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/reference/*.rst"]
exclude_patterns = [
    ".*",
    "airflow_provider_pai",
    "benchmarks",
    "demo",
    "dist",
    "site",
    "tests",
]  # not walked through
extensions = ["myst_parser", "sphinx.ext.autodoc"]

# --- pages ------------------------------------------------------------------------------------------------

myst_heading_anchors = 4
# Names of other packages have no page here. What begins with ours must have one.
nitpicky = True
nitpick_ignore_regex = [
    ("py:(class|obj|data|exc)", r"(?!airflow_provider_pai\b).*"),
    # in signatures alone: type variables, and records that nobody makes or takes apart
    ("py:(class|obj)", r".*\.(AnyConnection|Item|Pair|Paginator|StoredMetric|StoredRun|T)"),
]
suppress_warnings = ["misc.highlighting_failure"]  # an example may leave something out: `labels=…`

# --- the reference ----------------------------------------------------------------------------------------

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88

# --- how it looks; nothing comes from another host ----------------------------------------------------------

html_theme = "furo"
html_title = f"{project} {release}"
html_additional_pages = {"index": "index.html"}
templates_path = ["_templates"]
html_copy_source = False
html_show_sphinx = False
html_domain_indices = False


logger = logging.getLogger(__name__)


def fetch_lazy_names() -> None:
    """Put the names that a module looks up only when somebody asks for them where autodoc finds them."""
    for name in ("api", "operators", "triggers"):
        module = importlib.import_module(f"airflow_provider_pai.{name}")
        for public in module.__all__:
            setattr(module, public, getattr(module, public))


def complete(app: Any, page: str, content: list[str]) -> None:
    """Add the navigation to the first page, and fill the tables of the reference."""
    if page == root_doc:
        for caption, pages in NAVIGATION.items():
            listed = "\n".join(f"/{name}" for name in pages)
            content[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"
    elif page == "docs/reference/settings":
        content[0] = app.builder.templates.render_string(
            content[0], {"provider": get_provider_info(), "fields": FIELDS}
        )


def signature(app: Any, what: str, name: str, value: Any, *_: Any) -> tuple[str, str] | None:
    """Return the arguments of a task's ``__init__``; autodoc would show those of ``Arguments.__new__``."""
    if what != "class" or not issubclass(value, Arguments):
        return None
    made = inspect.signature(value.__init__, bound_method=True)
    return inspect.stringify_signature(made, unqualified_typehints=True, show_return_annotation=False), ""


def public_names() -> Iterator[str]:
    """Yield the name of all that a user may import, of the hook's methods, and of what else Airflow loads."""
    provider: dict[str, Any] = get_provider_info()
    listed = [*provider["hooks"], *provider["operators"], *provider["sensors"], *provider["triggers"]]
    for name in [*BESIDE, *(name for each in listed for name in each["python-modules"])]:
        if name.count(".") > 1:
            continue  # where Airflow looks for a class; users import it from one of the other modules
        module = importlib.import_module(name)
        yield from (f"{name}.{public}" for public in module.__all__)
    hook = importlib.import_module("airflow_provider_pai.hooks").PaiHook
    ours = [kind for kind in hook.__mro__ if kind.__module__.startswith("airflow_provider_pai.")]
    methods = {name for kind in ours for name, value in vars(kind).items() if callable(value)}
    yield from (f"airflow_provider_pai.hooks.PaiHook.{name}" for name in methods if name[0] != "_")
    yield from (each["class-name"] for each in provider["task-decorators"])


def check_complete(app: Any, env: Any) -> None:
    """Warn of a public name that the reference lacks."""
    # Some are at home in another module than the one from which they are imported: either will do.
    documented = {*env.get_domain("py").objects}
    for name in public_names():
        module, _, short = name.rpartition(".")
        value = getattr(sys.modules.get(module), short, None)
        home = f"{getattr(value, '__module__', module)}.{short}"
        if not documented & {name, home}:
            logger.warning("the reference lacks %s", name)


def check_alone(app: Any, error: Exception | None) -> None:
    """Warn of a page that loads something from another host."""
    loaded = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=.?(?:https?:)?//|<link[^>]*\shref=.?(?:https?:)?//"
    )
    for page in [] if error else Path(app.outdir).rglob("*.html"):
        if found := loaded.search(page.read_text("utf-8")):
            logger.warning("%s loads from another host: %s", page.relative_to(app.outdir), found[0])


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx call what is above."""
    fetch_lazy_names()
    app.connect("source-read", complete)
    app.connect("autodoc-process-signature", signature)
    app.connect("env-check-consistency", check_complete)
    app.connect("build-finished", check_alone)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
