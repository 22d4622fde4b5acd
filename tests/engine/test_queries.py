# SPDX-License-Identifier: Apache-2.0
"""Mask2Former through the engine: windows, several scales, TorchScript, ONNX, torch.export."""

import numpy as np
import pytest
import torch
from PIL import Image

from longtail.engine import SemanticSegmentorWithTTA, Trainer
from longtail.engine.deployment.export import write_torchscript
from longtail.engine.deployment.graphs import write_exported_program, write_onnx
from longtail.engine.inference.build import build_inference
from tests.tiny import register_stripes, tiny_config

pytest.importorskip("transformers")

from tests.queries import OPTIONS, STRIDES, K, pairs

HEIGHT, WIDTH = 64, 96
SLIDE = ["TEST.SEM_SEG.MODE", "slide", "TEST.SEM_SEG.CROP_SIZE", [48, 64]]
SLIDE += ["TEST.SEM_SEG.STRIDE", [16, 32]]


@pytest.fixture
def configure(tmp_path):
    name = register_stripes("stripes_of_queries", tmp_path / "data")
    head = pairs({**OPTIONS, "TIMM.OUT_FEATURES": [*STRIDES], "SEM_SEG_HEAD.PAD_TO_STRIDE": True})
    sizes = ["INPUT.MIN_SIZE_TEST", HEIGHT, "INPUT.MAX_SIZE_TEST", 2 * WIDTH]

    def make(*options):
        return tiny_config(tmp_path, [*head, *sizes, "DATASETS.TRAIN", (name,), *options])

    return make


@pytest.fixture
def model(configure):
    torch.manual_seed(0)
    return Trainer.build_model(configure()).eval()


@pytest.fixture
def image():
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)


def scores(model, image):
    """(K, h, w) sums over the queries, by the paper, of an image of a multiple of the stride."""
    with torch.no_grad():
        x = (image.float() - model.pixel_mean) / model.pixel_std
        queries = model.sem_seg_head.queries(model.backbone(x[None]))
    masks = torch.nn.functional.interpolate(
        queries.mask_logits[-1], image.shape[1:], mode="bilinear"
    )[0].sigmoid()
    classes = queries.class_logits[-1][0].softmax(-1)[:, :K]
    return (classes[:, :, None, None] * masks[:, None]).sum(0)


def test_windows_give_the_geometric_mean_of_their_scores(configure, model, image):
    """Rows from 0 and 16, columns from 0 and 32; 48 rows are padded to 64 for the stride."""
    total, count = torch.zeros(K, HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH)
    for top in (0, 16):
        for left in (0, 32):
            rows, columns = slice(top, top + 48), slice(left, left + 64)
            with torch.no_grad():
                logs = model([{"image": image[:, rows, columns]}])[0]["sem_seg"]
            total[:, rows, columns] += logs
            count[rows, columns] += 1
    inference = build_inference(configure(*SLIDE), model)
    found = inference([{"image": image, "height": HEIGHT, "width": WIDTH}])[0]["sem_seg"]
    torch.testing.assert_close(found, total / count, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([b.clone() for b in inference.bands(image)], 1), found)


def test_a_window_as_large_as_the_image_gives_the_papers_scores(configure, model, image):
    whole = ["TEST.SEM_SEG.CROP_SIZE", [HEIGHT, WIDTH], "TEST.SEM_SEG.STRIDE", [HEIGHT, WIDTH]]
    inference = build_inference(configure(*SLIDE, *whole), model)
    found = inference([{"image": image, "height": HEIGHT, "width": WIDTH}])[0]["sem_seg"]
    torch.testing.assert_close(found.exp(), scores(model, image), rtol=1e-4, atol=1e-6)


def test_several_scales_give_the_mean_of_the_scores_shares(configure, model, image, tmp_path):
    """At one scale with its flip: s_c / sum of s over the classes, the mean of both copies."""
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    cfg = configure("TEST.AUG.ENABLED", True, "TEST.AUG.SCALES", [1.0], "TEST.AUG.FLIP", True)
    augmented = SemanticSegmentorWithTTA(cfg, build_inference(cfg, model))
    found = augmented([{"file_name": str(tmp_path / "image.png")}])[0]["sem_seg"]
    copies = [scores(model, image), scores(model, image.flip(2)).flip(2)]
    expected = sum(s / s.sum(0) for s in copies) / 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_torchscript, write_onnx, write_exported_program])
def test_files_give_what_the_model_gives(model, image, tmp_path, write):
    """Each is compared with the model when it is written; here with other images."""
    if write is write_onnx:
        pytest.importorskip("onnxruntime")
    path = tmp_path / "model"
    written = write(str(path), model, HEIGHT)
    any_size = written[1] if write is write_torchscript else written.any_size
    assert any_size == (write is write_onnx)
    square = image[:, :, :HEIGHT]
    if write is write_torchscript:
        found = torch.jit.load(path)(square)
        found = found[0] if isinstance(found, tuple) else found
    elif write is write_onnx:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"images": square[None].numpy()})[0])[0]
    else:
        found = torch.export.load(path).module()(square[None])[0]
    expected = scores(model, square).log()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(found.numpy(force=True)).all()
