"""The project as a user installs it: a wheel in an environment that does not know the checkout."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a build reads.
SOURCES = ("longtail", "projects", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
# Folders of installed packages, to be shared with the environments that the tests make.
SITE_PACKAGES = dict.fromkeys(
    Path(find_spec(name).origin).parents[1] for name in ("detectron2", "torch", "timm", "pytest")
)


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and the folder that its programs are run in.

    Attributes:
        prefix: of the environment.
        folder: outside the checkout.
    """

    prefix: Path
    folder: Path

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        (found,) = self.prefix.glob("lib/python*/site-packages")
        return found

    def share(self, folders: Iterable[Path]) -> None:
        """See the packages in ``folders``; files that would add editable installs are not read."""
        lines = "".join(f"{folder}\n" for folder in folders)
        (self.site_packages / "shared.pth").write_text(lines, encoding="utf-8")

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess:
        """Run a program of the environment, without PYTHONPATH."""
        settings = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
        return subprocess.run(
            [self.prefix / "bin" / command[0], *command[1:]],
            cwd=self.folder,
            env={**settings, "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            timeout=600,
        )

    def succeed(self, *command: str | Path, **variables: str) -> str:
        """Standard output of a program, which must succeed."""
        done = self.run(*command, **variables)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


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
