# SPDX-License-Identifier: Apache-2.0
"""Changes to the sources of detectron2 0.6 that make them work today, and their reasons.

Each change names its file and the text that must be there: other sources than those of 0.6 are
refused rather than half changed. ``longtail install-detectron2`` makes them.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

# What `pip list` shows. The number goes up with the edits below: an older build of ours (and
# nothing else) is replaced when the command runs again.
OUR_VERSIONS = "0.6+longtail."
VERSION = OUR_VERSIONS + "1"


@dataclass(frozen=True)
class Edit:
    """One change of a source file: ``old`` must occur exactly ``count`` times."""

    file: str
    old: str
    new: str
    count: int = 1


# Takes the place of the compiled module where it is missing: importing it is fine, using it is not.
EXTENSION_FILE = "detectron2/utils/extension.py"
EXTENSION_SOURCE = '''"""detectron2._C, or a stand-in that explains itself when it is used."""


class _MissingExtension:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"detectron2._C.{name} is not there: this detectron2 was built without its C++ "
            "extension; to use rotated boxes or deformable convolutions, uninstall it and "
            "build detectron2 from its repository with a C++ compiler"
        )


try:
    from detectron2 import _C

    HAS_EXTENSION = True
except ImportError:
    _C = _MissingExtension()
    HAS_EXTENSION = False
'''

_IMPORT_C = "from detectron2 import _C\n"
_OPTIONAL_C = "from detectron2.utils.extension import _C\n"
_COCO = "detectron2/evaluation/coco_evaluation.py"
_ZOO = "detectron2/model_zoo/model_zoo.py"

EDITS = (
    # No C++ extension: its users import, and COCO evaluation takes pycocotools' own code.
    Edit("detectron2/layers/deform_conv.py", _IMPORT_C, _OPTIONAL_C),
    Edit("detectron2/layers/rotated_boxes.py", _IMPORT_C, _OPTIONAL_C),
    Edit("detectron2/layers/roi_align_rotated.py", _IMPORT_C, _OPTIONAL_C),
    Edit("detectron2/evaluation/fast_eval_api.py", _IMPORT_C, _OPTIONAL_C),
    Edit(
        _COCO,
        "from detectron2.utils.file_io import PathManager\n",
        "from detectron2.utils.extension import HAS_EXTENSION\n"
        "from detectron2.utils.file_io import PathManager\n",
    ),
    Edit(
        _COCO, "_use_fast_impl = use_fast_impl", "_use_fast_impl = use_fast_impl and HAS_EXTENSION"
    ),
    Edit(
        _COCO,
        "if use_fast_impl else COCOeval)",
        "if use_fast_impl and HAS_EXTENSION else COCOeval)",
    ),
    # Pillow 10 removed this second name of BILINEAR.
    Edit("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR"),
    # torch has no Caffe2 any more, and what else is in this package does not need it.
    Edit("detectron2/export/__init__.py", "from .api import *\n", ""),
    # torch warns without it, on each new process.
    Edit(
        "detectron2/modeling/anchor_generator.py",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
    ),
    # setuptools 82 removed pkg_resources.
    Edit(_ZOO, "import pkg_resources\n", ""),
    Edit(
        _ZOO,
        'pkg_resources.resource_filename(\n        "detectron2.model_zoo", ',
        "os.path.join(\n        os.path.dirname(os.path.abspath(__file__)), ",
    ),
)
# numpy 1.24 removed these names of Python's own types.
NUMPY_ALIAS = re.compile(r"\bnp\.(int|float|bool|str)\b")
NUMPY_ALIAS_COUNT = 19

# Where the original setup.py installs the three projects that belong to the library.
PROJECTS = {
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "detectron2/projects/panoptic_deeplab",
}
SETUP_SOURCE = f'''"""Build file of detectron2 {VERSION}: Python only, without version limits."""

from setuptools import find_packages, setup

setup(
    name="detectron2",
    version="{VERSION}",
    description="detectron2 0.6 for current torch, numpy and Pillow, without C++ extension",
    license="Apache-2.0",
    packages=find_packages(include=["detectron2", "detectron2.*"]),
    package_data={{"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}},
    python_requires=">=3.10",
    install_requires=[
        "Pillow", "matplotlib", "pycocotools", "termcolor", "yacs", "tabulate", "cloudpickle",
        "tqdm", "tensorboard", "fvcore", "iopath", "omegaconf", "hydra-core",
    ],
)
'''


def edit_sources(tree: Path) -> None:
    """Turn the unpacked sources of detectron2 0.6 into those of our wheel, in place.

    Args:
        tree: the folder with ``detectron2/`` and ``projects/``.

    Raises:
        ValueError: the sources are not those of 0.6; the message names the file.
    """
    apply_edits(tree, EDITS)
    replace_numpy_aliases(tree / "detectron2", NUMPY_ALIAS_COUNT)
    (tree / EXTENSION_FILE).write_text(EXTENSION_SOURCE, encoding="utf-8")
    for source, target in PROJECTS.items():
        shutil.move(tree / source, tree / target)
    (tree / "setup.cfg").unlink(missing_ok=True)
    (tree / "setup.py").write_text(SETUP_SOURCE, encoding="utf-8")


def apply_edits(tree: Path, edits: tuple[Edit, ...]) -> None:
    """Apply ``edits`` to the files under ``tree``.

    Raises:
        ValueError: a file has another number of occurrences than expected (0 if it is missing).
    """
    for edit in edits:
        path = tree / edit.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        found = text.count(edit.old)
        if found != edit.count:
            raise ValueError(
                f"{edit.file}: expected {edit.old.strip()!r} {edit.count} time(s), found {found}; "
                "these are not the sources of detectron2 0.6"
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def replace_numpy_aliases(tree: Path, count: int) -> None:
    """Turn ``np.int``, ``np.float``, ``np.bool``, ``np.str`` into Python's types under ``tree``.

    Args:
        tree: all its ``*.py`` files are searched.
        count: how many must be found in all.

    Raises:
        ValueError: another number was found.
    """
    total = 0
    for path in sorted(tree.rglob("*.py")):
        text, found = NUMPY_ALIAS.subn(r"\1", path.read_text(encoding="utf-8"))
        if found:
            path.write_text(text, encoding="utf-8")
            total += found
    if total != count:
        raise ValueError(
            f"{tree.name}: expected {count} removed numpy names, found {total}; "
            "these are not the sources of detectron2 0.6"
        )
