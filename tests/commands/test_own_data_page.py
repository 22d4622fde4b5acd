# SPDX-License-Identifier: Apache-2.0
"""docs/own_data.md: every example is run as it is printed, on generated data, outside the checkout.

All lines run one after the other in one process, which imports torch once.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own_data.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = """
import json, os, shlex, sys
from longtail.commands import main
for folder, lines in json.load(sys.stdin):
    os.chdir(folder)
    print(f"FOLDER {folder}", flush=True)
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "longtail", line
        try:
            main(arguments)
        except SystemExit as end:
            print(f"EXIT {end.code}")
            break
    print("END", flush=True)
"""


def sections() -> dict[str, list[tuple[str, str]]]:
    """The blocks of code of each section, as language and text."""
    _, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part.partition("\n")[0]: BLOCK.findall(part) for part in parts}


SECTIONS = sections()
GENERATOR = np.random.default_rng(0)


def picture(path: Path, color=(120, 120, 120), size=(64, 96)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(GENERATOR.normal(color, 20, (*size, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def detection(folder: Path) -> None:
    names = ["stop", "yield", "curve"]
    for split, number in (("train", 8), ("val", 3)):
        (folder / "Annotations" / split).mkdir(parents=True)
        for index in range(number):
            picture(folder / "images" / split / f"{index}.jpg")
            # The first class is in every image, the second in half of them, the third in one.
            own = names[: 1 + (index % 2) + (index == 1)]
            objects = "".join(
                f"<object><name>{name}</name><bndbox><xmin>{1 + 30 * c}</xmin><ymin>5</ymin>"
                f"<xmax>{24 + 30 * c}</xmax><ymax>40</ymax></bndbox></object>"
                for c, name in enumerate(own)
            )
            text = f"<annotation><size><width>96</width><height>64</height></size>{objects}"
            (folder / "Annotations" / split / f"{index}.xml").write_text(f"{text}</annotation>")


def segmentation(folder: Path) -> None:
    colors = np.array([[128, 64, 128], [0, 0, 142], [220, 220, 0], [0, 0, 0]], np.uint8)
    for split, number in (("train", 4), ("val", 2)):
        for index in range(number):
            picture(folder / "images" / split / f"city{index % 2}" / f"{index}_photo.webp")
            labels = np.zeros((64, 96), np.uint8)
            labels[:20], labels[40:, :30], labels[:, -3:] = 1, 2, 3
            target = folder / "colored" / split / f"city{index % 2}" / f"{index}_color.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colors[labels]).save(target)


def classification(folder: Path) -> None:
    for number, name in enumerate(("wren", "emu", "kiwi"), start=1):
        for index in range(2 * number):
            picture(folder / "train" / name / f"{index}.jpg", size=(40, 40))
        picture(folder / "photos" / f"{name}.png", size=(40, 40))
    lines = ["id,photo,species", "1,wren.png,wren", "2,emu.png,emu", "3,kiwi.png,kiwi"]
    (folder / "test.csv").write_text("\n".join(lines))


EXAMPLES = {
    "Detection from Pascal VOC's XML": (
        detection,
        ["train.png", "val.png", "output/detector_disalign/model_final.pth"],
        ["1 rare, 1 common, 1 frequent", "r up to 3 training images, c up to 6", "APr"],
    ),
    "Semantic segmentation with sub-folders": (
        segmentation,
        ["labels/train.png", "pictures/contact_sheet.png", "output/segmentor/model_final.pth"],
        ["6 images, 6 label maps, 0 errors", "mIoU"],
    ),
    "Image classification": (
        classification,
        ["output/classifier/model_final.pth"],
        ["imbalance factor        3.00", "mean_acc"],
    ),
    "Your own module": (classification, ["output/smoothed/model_final.pth"], []),
}


REFUSED = "refused"


def test_every_example_is_run():
    assert EXAMPLES.keys() == {title for title, blocks in SECTIONS.items() if blocks}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """For each example its folder, and what was printed there."""
    folder = tmp_path_factory.mktemp("own_data")
    jobs = []
    for number, (title, (generate, *_)) in enumerate(EXAMPLES.items()):
        place = folder / str(number)
        place.mkdir()
        generate(place)
        jobs.append([str(place), write_files(title, place)])
    # In another folder, and before the module is imported: nobody allows it here.
    place = folder / REFUSED
    place.mkdir()
    write_files("Your own module", place)
    (place / "my_losses.py").write_text("open('executed', 'w')")
    jobs.insert(0, [str(place), ["longtail train --config-file classifier.yaml"]])
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        input=json.dumps(jobs),
        cwd=folder,
        env={**os.environ, "LONGTAIL_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parts = dict(re.findall(r"^FOLDER (\S+)\n(.*?)^END$", done.stdout, re.MULTILINE | re.DOTALL))
    titles = dict(zip([place for place, _ in jobs], [REFUSED, *EXAMPLES], strict=True))
    return {titles[place]: (Path(place), text) for place, text in parts.items()}


def write_files(title: str, folder: Path) -> list[str]:
    """Write the files of an example, and return its lines."""
    lines = []
    for language, text in SECTIONS[title]:
        if language:
            name = re.match(r"# (\S+\.(?:yaml|py))\n", text)[1]
            (folder / name).write_text(text, encoding="utf-8")
        else:
            lines += text.splitlines()
    assert lines
    return lines


@pytest.mark.parametrize("title", EXAMPLES)
def test_examples(title, outputs):
    _, files, printed = EXAMPLES[title]
    folder, said = outputs[title]
    assert "EXIT" not in said, said[-3000:]
    assert [file for file in files if not (folder / file).is_file()] == []
    assert [text for text in printed if text not in said] == [], said[-3000:]


def test_a_module_that_is_not_allowed_is_not_imported(outputs):
    folder, said = outputs[REFUSED]
    assert "EXIT error: config" in said and "--import my_losses" in said
    assert not (folder / "executed").exists()
