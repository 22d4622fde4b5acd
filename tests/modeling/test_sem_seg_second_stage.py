# SPDX-License-Identifier: Apache-2.0
"""cRT and LWS for pixels, on the frozen features of a semantic head.

Shape alphabet: N images, K classes, h and w height and width of label maps.
"""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.engine import Trainer
from longtail.engine.deployment.folding import baseline_config, fold
from tests.disalign.detectors import start, tensors
from tests.messages import raises_naming
from tests.tiny import register_stripes, tiny_config

NAME = "second_stage_stripes"
HEAD = "MODEL.SEM_SEG_HEAD.NAME"
WEIGHTED = ["MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "reweighted_cross_entropy"]


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        register_stripes(NAME, folder / "data")
        torch.manual_seed(0)
        model = Trainer.build_model(tiny_config(folder, ["DATASETS.TRAIN", (NAME,)]))
        torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
        torch.save({"model": model.state_dict()}, folder / "first.pth")
        yield str(folder / "first.pth")
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def configure(tmp_path, first_stage):
    def get(head, *overrides):
        options = ["DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (), "MODEL.WEIGHTS", first_stage]
        base = ["MODEL.SECOND_STAGE.BASE_HEAD_NAME", "FCNHead"] if head != "FCNHead" else []
        return tiny_config(tmp_path, [*options, HEAD, head, *base, *overrides])

    return get


def image(seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
    return [{"image": pixels, "height": 32, "width": 32}]


def scores(model):
    model.eval()
    with torch.no_grad():
        return model(image())[0]["sem_seg"]


def test_lws_starts_at_the_first_stages_scores(configure):
    first, second = start(configure("FCNHead")), start(configure("ScaledSemSegHead", *WEIGHTED))
    assert torch.equal(scores(first.model), scores(second.model))


@pytest.mark.parametrize(
    ("head", "own"),
    [("RetrainedSemSegHead", "retrained_classifier"), ("ScaledSemSegHead", "scaling")],
)
def test_training_moves_the_trained_part_alone_and_folds(configure, head, own):
    cfg = configure(head, *WEIGHTED)
    trainer = start(cfg)
    before = tensors(trainer.model)
    trainer.train()
    after = tensors(trainer.model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if f".{own}." in name} != set()
    model = trainer.model.eval()
    folded = fold(cfg, model).state_dict()
    baseline = Trainer.build_model(baseline_config(cfg))
    assert type(baseline.sem_seg_head).__name__ == "FCNHead"
    baseline.load_state_dict({name: folded[name] for name in baseline.state_dict()})
    torch.testing.assert_close(scores(baseline), scores(model), rtol=1e-5, atol=1e-5)


def test_the_weighted_loss_by_loops(configure):
    """sum w_y (-log p_y) / sum w_y over labelled pixels, w proportional to 1 / n_c."""
    head = Trainer.build_model(configure("RetrainedSemSegHead", *WEIGHTED)).sem_seg_head
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[:, 0] = 255
    counts = [0, 0, 0]
    for record in DatasetCatalog.get(NAME):
        of_image = np.asarray(Image.open(record["sem_seg_file_name"]))
        counts = [n + int((of_image == k).sum()) for k, n in enumerate(counts)]
    total, weight, gradient = 0.0, 0.0, torch.zeros_like(z)
    for n, y, x in (labels != 255).nonzero().tolist():
        c = int(labels[n, y, x])
        exponentials = [math.exp(float(v)) for v in z[n, :, y, x]]
        w = 1 / counts[c]
        total -= w * math.log(exponentials[c] / sum(exponentials))
        weight += w
        for k in range(3):
            gradient[n, k, y, x] = w * (exponentials[k] / sum(exponentials) - (k == c))
    loss = head.pixel_losses(z, labels)
    # The weights are float32.
    assert float(loss) == pytest.approx(total / weight, rel=1e-6)
    loss.backward()
    torch.testing.assert_close(z.grad, gradient / weight, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("head", ["RetrainedSemSegHead", "ScaledSemSegHead"])
def test_a_loss_that_counts_is_refused(configure, head):
    cfg = configure(head, "MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "seesaw")
    with raises_naming(ValueError, head, "MODEL.SEM_SEG_HEAD.PIXEL_LOSS"):
        Trainer.build_model(cfg)


def test_an_unknown_base_head_is_named(configure):
    cfg = configure("ScaledSemSegHead", "MODEL.SECOND_STAGE.BASE_HEAD_NAME", "FCNHeads")
    with raises_naming(ValueError, "MODEL.SECOND_STAGE.BASE_HEAD_NAME", "FCNHeads"):
        Trainer.build_model(cfg)
