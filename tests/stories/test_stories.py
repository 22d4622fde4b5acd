# SPDX-License-Identifier: Apache-2.0
"""Three users' work, from shell and Python alone, after a plain installation.

Each script ends with checks of its own: predictions, metrics, and the exported model.
"""

import os
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# For each story what is printed, and the files that it leaves.
STORIES = {
    "segmentation_engineer": (
        ["mIoU", "multiply-adds"],
        ["predicted/labels/1.png", "predicted/overlays/0.png", "bundle/model.json"],
    ),
    "detection_engineer": (
        ["1 rare", "1 frequent", "APr"],
        ["output/calibrated/model_final.pth", "predicted/detections.json", "detector.ts"],
    ),
    "researcher": (["smoothed", "balanced_softmax"], ["predicted/predictions.csv", "smoothed.pt2"]),
}


@pytest.fixture(scope="module")
def tell(installed, tmp_path_factory):
    """Run a story in a folder of its own; returns the folder and what was printed."""
    scripts = tmp_path_factory.mktemp("scripts")
    for file in HERE.iterdir():
        if file.suffix == ".sh" or file.name == "make_data.py":
            shutil.copy(file, scripts)

    def run(name: str) -> tuple[Path, str]:
        folder = installed.folder / name
        folder.mkdir()
        path = os.pathsep.join([str(installed.prefix / "bin"), os.environ["PATH"]])
        variables = {"PATH": path, "STORIES": str(scripts), "LONGTAIL_CACHE": str(folder / "cache")}
        command = f'cd "{folder}" && bash "{scripts / name}.sh"'
        return folder, installed.succeed(shutil.which("bash"), "-c", command, **variables)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_story(tell, name):
    printed, files = STORIES[name]
    folder, said = tell(name)
    assert [text for text in printed if text not in said] == [], said[-3000:]
    assert [file for file in files if not (folder / file).is_file()] == []
