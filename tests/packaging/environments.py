# SPDX-License-Identifier: Apache-2.0
"""Virtual environments that do not know the checkout, and programs in them."""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
