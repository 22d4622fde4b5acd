# SPDX-License-Identifier: Apache-2.0
"""A project of somebody else: whatever it registers is found, without a word in longtail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# A distribution of one package, as pip would leave it. Its head is one that training alone has, and
# its meta-architecture has a layer that folds into the first stage's weights.
INIT = '''"""A project."""
import torch
'''
PROJECT = '''
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from longtail.config import Folding, Project
from longtail.modeling.classification import ImageClassifier
from longtail.modeling.sem_seg.fcn import FCNHead


def add_config(cfg):
    cfg.MODEL.THIRD = CfgNode({"BASE": "FCNHead", "WRAPPED": "FCNHead", "CACHE": ""})


@SEM_SEG_HEADS_REGISTRY.register()
class ThirdHead(FCNHead):
    """A head that training alone has."""


@META_ARCH_REGISTRY.register()
class DoublingClassifier(ImageClassifier):
    """Twice the logits of the classifier."""

    def class_logits(self, features):
        return 2 * super().class_logits(features)


@torch.no_grad()
def fold(model):
    model.classifier.weight.mul_(2)
    model.classifier.bias.mul_(2)


PROJECT = Project(
    name="Third",
    add_config=add_config,
    deployed_heads={"ThirdHead": "MODEL.THIRD.BASE"},
    head_keys=("MODEL.THIRD.WRAPPED",),
    training_tensors=("sem_seg_head.third.",),
    deployed_tensors=("third_stage.",),
    train_loader=lambda cfg: ["what was cached"] if cfg.MODEL.THIRD.CACHE else None,
    foldings=(
        Folding(
            "MODEL.META_ARCHITECTURE", "DoublingClassifier", lambda cfg: "ImageClassifier", fold
        ),
    ),
)
'''
COMMAND = '''"""Do what nobody else does."""


def main(arguments=None):
    print("third:", *arguments)
'''
METADATA = "Metadata-Version: 2.1\nName: third\nVersion: 1.0\n"
ENTRY_POINTS = """[longtail.projects]
third = third.project:PROJECT
[longtail.commands]
third = third.command:main
"""


@pytest.fixture(scope="module")
def third(tmp_path_factory) -> Path:
    """The folder of the distribution."""
    folder = tmp_path_factory.mktemp("third")
    files = {
        "third/__init__.py": INIT,
        "third/project.py": PROJECT,
        "third/command.py": COMMAND,
        "third-1.0.dist-info/METADATA": METADATA,
        "third-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, *command: str | Path, fails: bool = False) -> str:
    """Standard output, or that of errors, of a program of an environment with the distribution."""
    variables = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == (1 if fails else 0), done.stdout + done.stderr
    return done.stderr if fails else done.stdout


PROGRAM = """
import json, torch
from longtail.commands import export
from longtail.config import deployed_config, deployed_state, load_config
from longtail.engine import Trainer
from longtail.engine.deployment.folding import baseline_config, changes, fold

found = {"base": load_config("").MODEL.THIRD.BASE}
wrapped = ["MODEL.SEM_SEG_HEAD.NAME", "ThirdHead", "MODEL.THIRD.WRAPPED", "ThirdHead"]
cfg = load_config("", [*wrapped, "MODEL.THIRD.BASE", "PSPHead", "DATASETS.TRAIN", ("data",)])
deployed = deployed_config(cfg)
found["deployed"] = [deployed.MODEL.SEM_SEG_HEAD.NAME, deployed.MODEL.THIRD.WRAPPED]
found["changes"] = changes(cfg, deployed)
found["tensors"] = list(deployed_state({"sem_seg_head.third.bias": 0, "sem_seg_head.bias": 1}))
found["loader"] = Trainer.build_train_loader(load_config("", ["MODEL.THIRD.CACHE", "folder"]))

second = ["MODEL.META_ARCHITECTURE", "DoublingClassifier", "MODEL.TIMM.NAME", "test_efficientnet"]
second += ["MODEL.BACKBONE.NAME", "TimmClassificationBackbone", "MODEL.CLASSIFIER.NUM_CLASSES", "3"]
second += ["MODEL.DEVICE", "cpu"]
cfg = load_config("ImageNet-LT/R_50.yaml", second)
baseline_cfg = baseline_config(cfg)
model = Trainer.build_model(cfg).eval()
baseline = Trainer.build_model(baseline_cfg).eval()
baseline.load_state_dict(fold(cfg, model).state_dict())
found["baseline"] = type(baseline).__name__
features = torch.randn(5, model.classifier.in_features)
torch.testing.assert_close(baseline.class_logits(features), model.class_logits(features))
found["folding"] = changes(cfg, baseline_cfg)

torch.save({"model": {**baseline.state_dict(), "third_stage.bias": torch.zeros(1)}}, "weights.pth")
second[1] = "ImageClassifier"
files = ["--weights", "weights.pth", "--output", "deployed.pth"]
try:
    export.main(["--config-file", "ImageNet-LT/R_50.yaml", *files, *second])
except SystemExit as error:
    found["export"] = str(error)
print(json.dumps(found))
"""


def test_what_a_project_registers_is_found(third):
    found = json.loads(run(third, "-c", PROGRAM).splitlines()[-1])
    assert "weights.pth was trained with third_stage.bias, which this" in found.pop("export")
    assert not (third / "deployed.pth").exists()
    assert found == {
        "base": "FCNHead",
        "deployed": ["PSPHead", "PSPHead"],
        "changes": ["MODEL.SEM_SEG_HEAD.NAME", "PSPHead"],
        "tensors": ["sem_seg_head.bias"],
        "loader": ["what was cached"],
        "baseline": "ImageClassifier",
        "folding": ["MODEL.META_ARCHITECTURE", "ImageClassifier"],
    }


def test_its_command_runs_and_is_listed(third):
    assert run(third, "-m", "longtail", "third", "--now", "1") == "third: --now 1\n"
    (line,) = [s for s in run(third, "-m", "longtail").splitlines() if s.startswith("  third ")]
    assert line.split(maxsplit=1)[1] == "Do what nobody else does"
