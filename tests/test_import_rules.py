# SPDX-License-Identifier: Apache-2.0
"""The imports of the packages, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = sorted(path.parent for path in ROOT.glob("projects/*/*/__init__.py"))
PROJECT_NAMES = {path.name for path in PROJECTS}
OWN = {"longtail", *PROJECT_NAMES}

# Part of longtail -> the other parts of longtail that it may import; commands import everything.
ALLOWED = {
    "utils": set(),
    "config": {"utils"},
    "losses": {"config", "utils", "data"},
    "data": {"config", "utils"},
    "modeling": {"config", "utils", "losses"},
    "evaluation": {"config", "utils", "data"},
    "visualization": {"config", "utils", "data", "evaluation"},
    "engine": {"config", "utils", "data", "evaluation", "losses", "modeling", "visualization"},
    "analysis": {"config", "utils", "data", "evaluation", "losses", "modeling", "visualization"},
    "jobs": {"config", "utils", "analysis"},
}

LOADING = ROOT / "longtail" / "config" / "loading.py"
LOSSES = ROOT / "longtail" / "losses"
# The only files of losses that know configs, class statistics and detectron2.
BUILDING = {"build.py", "builders.py"}
PURE_LOSSES = {
    f"longtail.losses.{path.stem}"
    for path in LOSSES.glob("*.py")
    if path.name not in {*BUILDING, "__init__.py"}
}
PURE = {"torch", "numpy", *sys.stdlib_module_names}


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(path: Path, package: str) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def package_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).parent.parts)


def all_sources() -> list[tuple[Path, str]]:
    listed = [(path, package_of(path, ROOT)) for path in sources(ROOT / "longtail")]
    for project in PROJECTS:
        listed += [(path, package_of(path, project.parent)) for path in sources(project)]
    return listed


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def beside(allowed: set[str], names: set[str]) -> set[str]:
    """Of the names in other packages than those, the first three parts: the module in a package."""
    return {".".join(n.split(".")[:3]) for n in names if n.split(".")[0] not in allowed}


def ids(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else ""


def sources_named(*names: str):
    """Those sources; the generated data set's ``config.py`` declares no config keys."""
    chosen = [
        (path, package)
        for path, package in all_sources()
        if path.name in names and package != "longtail.data.synthetic"
    ]
    return pytest.mark.parametrize(("path", "package"), chosen, ids=ids)


each_source = pytest.mark.parametrize(("path", "package"), all_sources(), ids=ids)


def test_there_is_something_to_check():
    assert {path.name for path, _ in all_sources()} >= {"functional.py", "metrics.py", "config.py"}


@each_source
def test_nothing_imports_a_project_or_the_programs_but_itself(path, package):
    allowed = {package.split(".")[0]} - {"longtail"}
    forbidden = (PROJECT_NAMES - allowed) | {"train_net", "tools", "tests", "benchmarks"}
    assert not tops(imports(path, package)) & forbidden


@each_source
def test_parts_of_longtail(path, package):
    parts = {p.parent.name for p in ROOT.glob("longtail/*/__init__.py")}
    assert parts <= {*ALLOWED, "commands"}
    part = package.partition(".")[2].partition(".")[0]
    if package.startswith("longtail.") and part != "commands":
        names = imports(path, package)
        seen = {name.split(".")[1] for name in names if name.startswith("longtail.")}
        allowed = {part, *ALLOWED[part]}
        if path == LOADING:
            # Inside of a function: configs name files that declare data sets.
            allowed |= {"data"}
        assert seen & parts <= allowed


@each_source
def test_only_commands_import_commands(path, package):
    if "commands" in package.split(".") or path == ROOT / "longtail" / "__main__.py":
        return
    assert not any("commands" in name.split(".")[1:2] for name in imports(path, package))


ALL_FILES = sorted(
    path
    for part in ("longtail", "projects", "tests", "benchmarks", "tools", "*.py")
    for folder in ROOT.glob(part)
    for path in ([folder] if folder.is_file() else folder.rglob("*.py"))
)


@pytest.mark.parametrize("path", ALL_FILES, ids=ids)
def test_no_file_patches_the_path_of_imports(path):
    """Installed packages are found; a path that a file patches hides what is missing elsewhere."""
    text = path.read_text(encoding="utf-8")
    # In two parts, for this file is checked as well.
    assert not [word for word in ("sys." + "path", "syspath_" + "prepend") if word in text]


def test_registration_does_without_the_generator():
    """The code that draws scenes is loaded by the commands alone that do."""
    program = (
        "import sys, longtail.config, longtail.data, longtail.engine\n"
        "longtail.config.load_config('')\n"
        "from detectron2.data import DatasetCatalog\n"
        "assert {'synthetic_sem_seg_train', 'lvis_synthetic_val'} <= set(DatasetCatalog.list())\n"
        "print(*(name for name in sys.modules if name.startswith('longtail.data.synthetic')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


@sources_named("functional.py")
def test_pure_files_import_torch_numpy_and_losses_alone(path, package):
    # Methods' functions call the losses that they are cases of.
    assert beside(PURE, imports(path, package)) <= PURE_LOSSES


@pytest.mark.parametrize("path", sources(LOSSES), ids=ids)
def test_losses_import_torch_and_numpy_alone(path):
    """Themselves apart; build may read configs and class statistics."""
    names, known, own = imports(path, "longtail.losses"), PURE, PURE_LOSSES
    if path.name in BUILDING:
        # Of the config package, access by dotted keys alone.
        names -= {"longtail.config", "longtail.config.get_value"}
        known = known | {"detectron2"}
        own = own | {"longtail.losses.build", "longtail.data.statistics"}
    if path.name == "__init__.py":
        own = own | {f"longtail.losses.{Path(name).stem}" for name in BUILDING}
    assert beside(known, names) <= own


@sources_named("config.py")
def test_config_files_import_cfgnode_alone(path, package):
    assert imports(path, package) <= {"detectron2.config", "detectron2.config.CfgNode"}


@each_source
def test_constructors_look_no_statistics_up(path, package):
    """Only a ``from_config`` or a builder from a config does; constructors take plain tensors."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            assert "get_class_stats" not in names
