# SPDX-License-Identifier: Apache-2.0
"""longtail browse shows what the training loader gives."""

from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from longtail.commands import browse
from longtail.config import load_config
from longtail.data.formats.images import read_image
from longtail.engine import Trainer
from longtail.visualization.instances import draw_objects
from longtail.visualization.painting import paint
from longtail.visualization.predictions import objects_of_record
from tests.commands.pictured import TASKS, Pictured, pictured, read_pictures
from tests.messages import assert_names
from tests.visualization.pictures import positions

COLORS = [(128, 0, 0), (0, 128, 0), (128, 128, 0)]


def given(task: str):
    @pytest.fixture(scope="module")
    def fixture(tmp_path_factory):
        with pictured(task, tmp_path_factory.mktemp(task)) as made:
            yield made

    return fixture


sem_seg, objects, images = map(given, TASKS)


def run(made: Pictured, output: Path, *options: str) -> dict[str, np.ndarray]:
    browse.main(["--config-file", str(made.config), "--output", str(output), *options])
    return read_pictures(output)


def fail(made: Pictured, output: Path, *options: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(made, output, *options)
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    return message


def first_of_training(made: Pictured, number: int) -> list[dict]:
    cfg = load_config(str(made.config))
    loader = Trainer.build_train_loader(cfg)
    loader.seed(cfg.SEED)
    return list(islice(chain.from_iterable(loader), number))


def test_label_maps_are_those_of_the_training(sem_seg, tmp_path):
    pictures = run(sem_seg, tmp_path / "out", "--num-images", "6")
    fed = first_of_training(sem_seg, 6)
    names = [f"{i:04d}_{Path(each['file_name']).stem}" for i, each in enumerate(fed)]
    assert list(pictures) == names
    for mapped, picture in zip(fed, pictures.values(), strict=True):
        image = mapped["image"].numpy().transpose(1, 2, 0)
        assert positions(picture, image)
        assert positions(picture, paint(image, mapped["sem_seg"].numpy(), COLORS))


def test_another_seed_gives_other_augmentations(sem_seg, tmp_path):
    one, again, other = (
        run(sem_seg, tmp_path / name, "--num-images", "3", "SEED", seed)
        for name, seed in (("one", "5"), ("again", "5"), ("other", "6"))
    )
    assert one.keys() == again.keys()
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert one.keys() != other.keys() or any((one[n] != other[n]).any() for n in one)


@pytest.mark.parametrize("options", [(), ("INPUT.MASK_FORMAT", "bitmask"), ("INPUT.FORMAT", "RGB")])
def test_objects_are_where_they_are_annotated(objects, tmp_path, options):
    """Without augmentation, and in the order of the colours that files have."""
    pictures = run(
        objects, tmp_path / "out", "--num-images", "4", "INPUT.RANDOM_FLIP", "none", *options
    )
    # Bright: golden section, see thing_colors.
    records = {
        Path(record["file_name"]).stem: record for record in DatasetCatalog.get(objects.dataset)
    }
    assert len(pictures) == 4
    for name, picture in pictures.items():
        record = records[name.partition("_")[2]]
        image = read_image(record["file_name"], "RGB")
        truth = objects_of_record(record)
        # Red is class 0, and every image has one.
        assert (picture == (255, 0, 0)).all(axis=2).any()
        assert positions(picture, image.repeat(8, axis=0).repeat(8, axis=1))
        if set(truth.classes) == {0}:
            drawn = draw_objects(image, truth, ["red"], [(255, 0, 0)])
            assert positions(picture, drawn)


def test_images_with_their_class(images, tmp_path):
    pictures = run(images, tmp_path / "out", "--num-images", "3")
    for mapped, picture in zip(first_of_training(images, 3), pictures.values(), strict=True):
        image = mapped["image"].numpy().transpose(1, 2, 0)
        # 32 pixels become 256.
        assert positions(picture, image.repeat(8, axis=0).repeat(8, axis=1))


def test_bad_options(sem_seg, tmp_path):
    out = tmp_path / "out"
    assert_names(fail(sem_seg, out, "--num-images", "0"), "--num-images", "0")
    assert_names(fail(sem_seg, out, "DATASETS.TRAIN", "()"), "DATASETS.TRAIN")
    assert_names(fail(sem_seg, out, "DATASETS.TRAIN", "('nowhere',)"), "nowhere")
    assert not out.exists()
    out.write_text("a file", encoding="utf-8")
    assert_names(fail(sem_seg, out), "--output", str(out))
