# SPDX-License-Identifier: Apache-2.0
"""longtail cache-roi-features, and train_net.py on what it wrote."""

import argparse
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from disalign import roi_cache_making
from disalign.commands import cache_roi_features
from disalign.roi_cache_index import shard_name

from longtail.engine.run import run_process
from tests.messages import raises_naming
from tests.tiny_detection import detector_config
from tests.tiny_roi_cache import NUM_IMAGES, second_stage, write_cache

# The heads' RoIs in an image, and the channels of a RoI.
ROIS, CHANNELS = 16, 12


@pytest.fixture(scope="module")
def stage2(tmp_path_factory):
    """(folder, options) of a Mask R-CNN's second stage."""
    folder = tmp_path_factory.mktemp("cache_roi_features")
    with second_stage(folder) as options:
        yield folder, options


@pytest.fixture
def configure(stage2):
    return lambda *overrides: detector_config(stage2[0], [*stage2[1], *overrides])


@pytest.fixture
def run(stage2):
    """The command line of the tool, with further arguments."""
    config_file = str(stage2[0] / "detector.yaml")
    options = [str(option) for option in stage2[1]]

    def call(folder, *arguments):
        detector_config(stage2[0])
        cache_roi_features.main(
            ["--config-file", config_file, "--output", str(folder), *arguments, *options]
        )

    return call


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def uninterrupted(stage2):
    """Every file of two epochs, two shards each."""
    folder = stage2[0] / "uninterrupted"
    return contents(write_cache(detector_config(stage2[0], stage2[1]), folder))


def test_an_interrupted_cache_continues_bit_for_bit(
    configure, tmp_path, monkeypatch, uninterrupted
):
    write, written = roi_cache_making.write_shard, []

    def interrupt(path, images):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, images)

    monkeypatch.setattr(roi_cache_making, "write_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_cache(configure(), tmp_path / "cache")
    assert sorted(contents(tmp_path / "cache")) == ["cache.json", *written]
    monkeypatch.undo()
    # Whatever was drawn and computed between the two runs.
    torch.manual_seed(99)
    write_cache(configure(), tmp_path / "cache")
    assert contents(tmp_path / "cache") == uninterrupted


def test_a_lost_shard_is_made_again_bit_for_bit(configure, tmp_path, uninterrupted):
    for name, content in uninterrupted.items():
        if name != shard_name(2):
            (tmp_path / name).write_bytes(content)
    write_cache(configure(), tmp_path)
    assert contents(tmp_path) == uninterrupted


def test_neither_workers_nor_the_training_options_change_a_bit(configure, tmp_path, uninterrupted):
    cfg = configure("DATALOADER.NUM_WORKERS", 2, "SEED", 9, "SOLVER.IMS_PER_BATCH", 4)
    assert contents(write_cache(cfg, tmp_path / "cache")) == uninterrupted


def test_more_epochs_extend_a_cache_and_fewer_leave_it(configure, tmp_path, uninterrupted, capsys):
    write_cache(configure(), tmp_path / "cache", epochs=1)
    write_cache(configure(), tmp_path / "cache", epochs=2)
    assert contents(tmp_path / "cache") == uninterrupted
    capsys.readouterr()
    write_cache(configure(), tmp_path / "cache", epochs=1)
    assert contents(tmp_path / "cache") == uninterrupted
    assert capsys.readouterr().out.endswith("cache is complete: 6 images, 2 epochs\n")


def test_disk_use_is_said_before_and_is_an_upper_bound(run, tmp_path, capsys):
    run(tmp_path / "cache", "--epochs", "3")
    said = capsys.readouterr().out
    images = 3 * NUM_IMAGES
    rois = f"{images} images x {ROIS} RoIs x 1 stage x ({CHANNELS} channels x 4 + 8 bytes)"
    assert said.startswith(f"{rois} = up to 0.0 MB in {tmp_path / 'cache'}, ")
    shard = torch.load(tmp_path / "cache" / shard_name(0), weights_only=True)
    assert len(shard["counts"]) == NUM_IMAGES
    size = sum(t.numel() * t.element_size() for key in ("features", "classes") for t in shard[key])
    assert size <= NUM_IMAGES * ROIS * (4 * CHANNELS + 8)
    assert shard["counts"].max() == ROIS


def test_a_cache_that_does_not_fit_is_refused_before_anything_is_written(
    run, tmp_path, monkeypatch
):
    need = NUM_IMAGES * ROIS * (4 * CHANNELS + 8)
    for free, fits in [(need - 1, False), (need, True)]:
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        if fits:
            run(tmp_path / "new" / "cache")
            continue
        with raises_naming(SystemExit, "error:", "0.0 MB", str(tmp_path / "new" / "cache")):
            run(tmp_path / "new" / "cache")
        assert not (tmp_path / "new").exists()


def test_what_is_there_already_needs_no_space(configure, tmp_path, uninterrupted, capsys):
    for name, content in uninterrupted.items():
        if name != shard_name(3):
            (tmp_path / name).write_bytes(content)
    write_cache(configure(), tmp_path)
    assert capsys.readouterr().out.startswith("2 images x ")


def test_bad_input_is_one_line_and_leaves_everything_as_it_was(run, tmp_path):
    cache, other, file = tmp_path / "cache", tmp_path / "other", tmp_path / "file"
    run(cache)
    other.mkdir()
    (other / "picture.png").write_bytes(b"")
    file.write_bytes(b"")
    before = contents(cache)
    cases = [
        (other, [], "is neither a cache nor empty"),
        (file, [], "is a file: name a folder"),
        (tmp_path / "new", ["--epochs", "0"], "at least 1 epoch, got 0"),
        (tmp_path / "new", ["MODEL.DISALIGN.RHO", "-1.0"], "rho must be finite"),
        (tmp_path / "new", ["MODEL.UNKNOWN", "1"], "MODEL.UNKNOWN"),
        (cache, ["INPUT.MAX_SIZE_TRAIN", "32"], r"another config \(INPUT.MAX_SIZE_TRAIN\)"),
    ]
    for folder, arguments, message in cases:
        with pytest.raises(SystemExit) as info:
            run(folder, *arguments)
        assert re.match(f"error: .*{message}", info.value.code), info.value.code
        assert "\n" not in info.value.code
    assert not (tmp_path / "new").exists()
    assert contents(cache) == before


def test_weights_of_another_model_are_refused(configure, stage2, tmp_path):
    weights = tmp_path / "other.pth"
    content = torch.load(stage2[0] / "stage1.pth", weights_only=True)
    del content["model"]["backbone.fpn_output2.bias"]
    torch.save(content, weights)
    with raises_naming(ValueError, "backbone.fpn_output2.bias", "missing"):
        write_cache(configure("MODEL.WEIGHTS", str(weights)), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_missing_image_is_one_line_and_a_later_run_continues(run, stage2, tmp_path, monkeypatch):
    monkeypatch.setattr("disalign.roi_cache_index.IMAGES_PER_SHARD", 2)
    image = stage2[0] / "data" / "3.png"
    content = image.read_bytes()
    image.unlink()
    try:
        with raises_naming(SystemExit, "error:", "3.png"):
            run(tmp_path / "cache")
    finally:
        image.write_bytes(content)
    assert sorted(contents(tmp_path / "cache")) == ["cache.json", shard_name(0)]
    run(tmp_path / "cache")
    assert len(contents(tmp_path / "cache")) == 4


def test_train_net_trains_on_the_cache_without_the_training_images(
    run, stage2, tmp_path, kept_logging
):
    cache, output = tmp_path / "cache", tmp_path / "output"
    run(cache)
    options = [
        *map(str, stage2[1]),
        *("OUTPUT_DIR", str(output), "MODEL.DISALIGN.ROI_FEATURE_CACHE", str(cache)),
    ]
    args = argparse.Namespace(
        config_file=str(stage2[0] / "detector.yaml"), opts=options, eval_only=False, resume=False
    )
    away = stage2[0] / "away"
    away.mkdir()
    images = sorted((stage2[0] / "data").glob("*.png"))
    try:
        for image in images:
            image.rename(away / image.name)
        run_process(args)
        (cache / shard_name(0)).unlink()
        args.opts = [option.replace(str(output), str(tmp_path / "other")) for option in options]
        with raises_naming(SystemExit, "error:", str(cache), "1 of 1", "--epochs 1"):
            run_process(args)
    finally:
        for image in images:
            (away / image.name).rename(image)
    trained = torch.load(output / "model_final.pth", weights_only=True)["model"]
    first = torch.load(stage2[0] / "stage1.pth", weights_only=True)["model"]
    assert all(torch.equal(trained[name], value) for name, value in first.items())
    assert not torch.equal(trained["roi_heads.box_predictor.calibration.alpha"], torch.ones(3))
