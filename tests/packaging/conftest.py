# SPDX-License-Identifier: Apache-2.0
"""The project as a user installs it: a wheel in an environment that does not know the checkout."""

import shutil
import venv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, Environment, pip

# What a build reads.
SOURCES = ("longtail", "projects", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
# Folders of installed packages, to be shared with the environments that the tests make.
SITE_PACKAGES = dict.fromkeys(
    Path(find_spec(name).origin).parents[1] for name in ("detectron2", "torch", "timm", "pytest")
)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves files where it runs."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / "source")
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    pip("wheel", *offline, "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def new_environment(
    tmp_path_factory: pytest.TempPathFactory, wheel: Path
) -> Callable[[], Environment]:
    """Make an environment with the wheel alone."""

    def make() -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        environment = Environment(folder / "venv", folder / "elsewhere")
        environment.folder.mkdir()
        venv.create(environment.prefix, symlinks=True)
        pip("--python", environment.python, "install", "--no-index", "--no-deps", wheel)
        return environment

    return make


@pytest.fixture(scope="session")
def installed(new_environment: Callable[[], Environment]) -> Environment:
    """The wheel, and the packages that this Python has."""
    environment = new_environment()
    environment.share(SITE_PACKAGES)
    return environment


@pytest.fixture(scope="session")
def bare(new_environment: Callable[[], Environment]) -> Environment:
    """The wheel and nothing else: neither detectron2 nor torch."""
    return new_environment()
