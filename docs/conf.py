# SPDX-License-Identifier: Apache-2.0
"""The documentation site: ``make docs`` writes it to build/site, with warnings as errors.

The source folder is the checkout and not docs/, so that the pages' links to each other, to the
other READMEs and to sources are right on the site as they are on GitHub.
"""

import ast
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[1]

project = "detectron2-longtail"
_init = ast.parse((ROOT / "longtail" / "__init__.py").read_text(encoding="utf-8"))
release = next(
    node.value.value
    for node in _init.body
    if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
)

extensions = ["myst_parser", "sphinx.ext.napoleon", "autoapi.extension"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/**",
    "projects/*/README.md",
    "template/README.md",
    "configs/README.md",
    "benchmarks/README.md",
]
exclude_patterns = ["docs/_templates"]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"  # what browsers draw by themselves: no script from elsewhere

autoapi_dirs = [
    str(ROOT / "longtail"),
    *(str(init.parent) for init in sorted(ROOT.glob("projects/*/*/__init__.py"))),
]
PACKAGES = [Path(folder).name for folder in autoapi_dirs]
autoapi_root = "docs/api"
autoapi_add_toctree_entry = False
autoapi_template_dir = str(ROOT / "docs" / "_templates")
autoapi_options = ["members", "undoc-members", "show-inheritance", "show-module-summary"]
autoapi_python_class_content = "both"
autoapi_member_order = "bysource"

highlight_language = "none"  # examples in docstrings are of a shell; fences name their language
nitpicky = True
# Of docstrings that are inherited from detectron2.
nitpick_ignore = [("py:class", "FastRCNNOutputLayers")]
napoleon_use_ivar = True
napoleon_custom_sections = [("Shape alphabet", "params_style")]
napoleon_use_rtype = False  # annotations say it
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px"}
html_static_path = ["_static"]
html_title = f"{project} {release}"
html_show_sphinx = False


def literal_examples(lines: list[str]) -> list[str]:
    """Mark each indented block that follows a paragraph as literal: examples keep their lines.

    Blocks of a section (``Args:`` and so on) and of a list item are left as they are.
    """
    marked, block, inside = [], False, False
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else ""
        if line[:1].strip():
            block, inside = (
                False,
                bool(re.fullmatch(r"[A-Z]\w+:", line)) or line.startswith(("- ", ".. ")),
            )
        elif line.strip() and not block and not inside and not before.strip():
            marked += ["::", ""]
            block = True
        marked.append(line)
    return marked


def prepare_docstring(app, what, name, obj, options, lines) -> None:  # noqa: ANN001
    """Change the lines of a docstring in place, before napoleon reads its sections.

    Of ``num_classes: K.``, or of ``K.`` alone, the letter would be taken for a list's.
    """
    letter = re.compile(r"^( +\w+: (?=\w)|(?=[A-Z]))(\w\.)")
    lines[:] = [letter.sub(r"\1\\\2", line) for line in literal_examples(lines)]


def write_mathml(translator, node) -> None:  # noqa: ANN001
    """Write an equation as docutils' own writer does; browsers leave "log p" without its space."""
    block = isinstance(node, nodes.math_block)
    try:
        mathml = tex2mathml(node.astext(), as_block=block)
    except Exception as error:
        # Not MathError alone: of an & outside of rows the parser trips, and a process that writes
        # pages would end in silence, with all of its pages.
        LOGGER.warning("the equation %r: %r", node.astext(), error, location=node)
        raise nodes.SkipNode from None
    mathml = re.sub(r"<mo>(?=&ApplyFunction;</mo>\s*<(?!mo\b))", '<mo rspace="0.17em">', mathml)
    translator.body.append(f'<div class="math">{mathml}</div>' if block else mathml)
    raise nodes.SkipNode


def take_types_exactly(app, doctree) -> None:  # noqa: ANN001
    """Let an annotation name what its module knows, and not the only class of that name anywhere.

    The generator searches everywhere where an attribute is there at all, also for False.
    """
    for node in doctree.findall(pending_xref):
        if node.get("refspecific") is False:
            del node["refspecific"]


def follow_short_name(app, env, node, contnode):  # noqa: ANN001, ANN201
    """Resolve a reference to what a package offers of a module below it, as in ``__all__``."""
    found = env.autoapi_all_objects.get(node.get("reftarget"))
    if not found or not found.imported:
        return None
    while found.imported:
        found = env.autoapi_all_objects[found.obj["original_path"]]
    place = (node["refdoc"], app.builder, node["reftype"], found.id)
    return env.get_domain("py").resolve_xref(env, *place, node, contnode)


def is_not_ours(app, domain, node) -> bool | None:  # noqa: ANN001
    """Tell which unresolved references are no mistake: types in signatures, other libraries.

    What a docstring names by a role, and what lies in our packages, has to be found; "obj" is the
    generator's own role, of base classes.
    """
    written = isinstance(node[0], nodes.literal) and node["reftype"] != "obj"
    package, dot, _ = node["reftarget"].partition(".")
    return True if not written or (dot and package and package not in PACKAGES) else None


def warn_of_missing_names(app, env) -> None:  # noqa: ANN001
    """Warn of each public name in the sources that no page describes."""
    for name in sorted(public_names() - set(env.get_domain("py").objects)):
        LOGGER.warning("no page describes %s", name)


def public_names() -> set[str]:
    """All public modules and what they define, by their full names."""
    names = set()
    for folder in map(Path, autoapi_dirs):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder.parent).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if not any(part.startswith("_") for part in parts):
                module = ".".join(parts)
                names |= {module, *(f"{module}.{name}" for name in defined_names(file))}
    return names


def defined_names(file: Path) -> set[str]:
    """What a file defines under public names: functions, classes, constants."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in getattr(node, "targets", None) or [node.target]:
                names |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def setup(app) -> None:  # noqa: ANN001
    """Connect what is not an extension of its own."""
    app.add_html_math_renderer("mathml", (write_mathml, None), (write_mathml, None))
    app.connect("autodoc-process-docstring", prepare_docstring, priority=100)
    app.connect("doctree-read", take_types_exactly)
    app.connect("missing-reference", follow_short_name)
    app.connect("warn-missing-reference", is_not_ours)
    app.connect("env-check-consistency", warn_of_missing_names)
