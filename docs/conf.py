"""Builds the site of this documentation (`make docs`), with the repository's root as its source folder.

From there README and CHANGELOG are pages like those of docs/, and a link between them is the same on the site as in the
repository.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from types import FunctionType
from typing import Any

NAVIGATION = {
    "Tutorials": [
        "docs/tutorial",
        "docs/fracture",
        "docs/privacy-and-compression",
        "docs/simulate",
    ],
    "How-to guides": [
        "docs/lightning-cli",
        "docs/policy",
        "docs/statistics",
        "docs/evaluation",
        "docs/add-privacy",
        "docs/transfer-learning",
        "docs/slow-lines",
        "docs/data",
        "docs/deployment",
        "docs/devices",
        "docs/cluster",
        "docs/extending",
        "docs/regions",
        "docs/reports",
        "docs/steering",
        "docs/resume",
        "docs/from-flower",
        "docs/from-nvflare",
        "docs/troubleshooting",
        "docs/faq",
    ],
    "Explanation": [
        "docs/what-leaves-the-building",
        "docs/audit",
        "docs/privacy",
        "docs/masking",
        "docs/leakage",
        "docs/heterogeneity",
        "docs/asynchronous",
        "docs/compression",
        "docs/performance",
        "docs/scale",
        "docs/private-study",
        "docs/architecture",
    ],
    "Reference": [
        "docs/index",
        "docs/settings",
        "docs/commands",
        "docs/lightning",
        "docs/compositions",
        "docs/glossary",
        "CHANGELOG",
    ],
    "Python interface": [
        "docs/api/lightning_fed",
        "docs/api/callbacks",
        "docs/api/radiology",
        "docs/api/simulation",
        "docs/api/errors",
    ],
}
PUBLIC_MODULES = (
    "lightning_fed",
    "lightning_fed.callbacks",
    "lightning_fed.radiology",
    "lightning_fed.simulation",
    "lightning_fed.errors",
)

project = "lightning_fed"
release = installed_version(project)
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**.md", "docs/api/*.rst"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
highlight_language = "text"

myst_heading_anchors = 6

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_extra_path = ["site/index.html"]
html_static_path = ["site/static"]
html_css_files = ["site.css"]
templates_path = ["site/templates"]
html_copy_source = False
html_show_sphinx = False
html_sidebars = {"**": ["pages.html"]}
html_theme_options = {
    "navbar_center": [],
    "footer_start": [],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "back_to_top_button": True,
    "navigation_with_keys": False,
}


def setup(app: Any) -> None:
    """What Sphinx calls: this project's own checks, and what it needs to see the names as a reader imports them."""
    app.connect("source-read", _navigate_from_readme)
    app.connect("builder-inited", _choose_lightning)
    app.connect("autodoc-process-signature", _without_factories)
    app.connect("missing-reference", _public_reference)
    app.connect("env-check-consistency", _all_public_names_are_documented)
    app.connect("build-finished", _reads_offline)


def _navigate_from_readme(app: Any, page: str, source: list[str]) -> None:
    """Add the navigation, which would be noise to those who read the README elsewhere."""
    if page == root_doc:
        trees = (
            f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
            for caption, pages in NAVIGATION.items()
        )
        source[0] += "".join(trees)


def _choose_lightning(app: Any) -> None:
    """Import Lightning first: until then public names that need it are bound to stand-ins."""
    import_module("lightning.pytorch")


def _without_factories(app: Any, what: str, name: str, one: Any, options: Any, signature: str, returns: str) -> Any:
    """A default that a data class makes anew each time is printed as what no parser of signatures takes."""
    return (signature.replace("<factory>", "..."), returns) if signature else None


def _public_names() -> Iterator[tuple[str, Any]]:
    for module in PUBLIC_MODULES:
        room = import_module(module)
        yield from ((f"{module}.{name}", getattr(room, name)) for name in room.__all__ if name != "__version__")


def _public_reference(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Lead from where a class is defined to the entry under its public name."""
    for public, one in _public_names():
        if node.get("reftarget") == f"{getattr(one, '__module__', '')}.{getattr(one, '__qualname__', '')}":
            python = env.get_domain("py")
            return python.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
    return None


def _all_public_names_are_documented(app: Any, env: Any) -> None:
    from sphinx.util import logging

    entries = {name for name, *_ in env.get_domain("py").get_objects()}
    for public, one in _public_names():
        if public not in entries:
            logging.getLogger(__name__).warning("%s is public and has no entry in docs/api", public)
        told = (one.__doc__ or "").strip()
        if isinstance(one, type | FunctionType) and (
            not told or told.startswith(f"{one.__name__}(")
        ):  # a data class's own
            logging.getLogger(__name__).warning("%s is public and has no docstring", public)


def _reads_offline(app: Any, exception: Exception | None) -> None:
    """Refuse pages that load something from the network: a hospital may read them without one."""
    from sphinx.errors import ExtensionError

    loads = {
        "*.html": r"""<(?:script|img|iframe|source|link(?![^>]*rel="(?:canonical|author|license)"))\b[^>]*"""
        r"""\s(?:src|href|srcset)=["']?(?:https?:)?//[^>]*""",
        "*.css": r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"']*""",
    }
    found = [
        f"{file.relative_to(app.outdir)}: {hit}"
        for pattern, load in loads.items()
        for file in sorted(Path(app.outdir).rglob(pattern))
        for hit in re.findall(load, file.read_text(encoding="utf-8"))
    ]
    if found and exception is None:
        raise ExtensionError("pages load from the network:\n" + "\n".join(found))
