# SPDX-License-Identifier: Apache-2.0
"""Training on cached RoI features is training on the RoIs that they were computed from."""

import collections
import itertools

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from disalign.roi_cache import RoICache, build_roi_cache_loader, write_shard
from disalign.roi_cache_index import Index, expected_index, shard_name, write_index
from disalign.roi_cache_making import AugmentedImages

from longtail.engine import Trainer
from longtail.engine.training.data_sets import build_mapper, training_records
from longtail.modeling.roi_heads import RoIs
from tests.tiny_detection import detector_config
from tests.tiny_roi_cache import NUM_IMAGES, second_stage, write_cache


@pytest.fixture(scope="module", params=[False, True], ids=["mask", "cascade"])
def made(request, tmp_path_factory):
    """(folder, options, cache) of a Mask R-CNN and of a Cascade R-CNN."""
    folder = tmp_path_factory.mktemp("roi_cache")
    with second_stage(folder, cascade=request.param) as options:
        cache = write_cache(detector_config(folder, options), folder / "cache")
        yield folder, options, cache


@pytest.fixture
def configure(made):
    """A function that gives the config with further options, the cache among them."""
    folder, options, cache = made

    def get(*overrides):
        return detector_config(
            folder, [*options, "MODEL.DISALIGN.ROI_FEATURE_CACHE", str(cache), *overrides]
        )

    return get


def open_cache(cfg):
    folder = cfg.MODEL.DISALIGN.ROI_FEATURE_CACHE
    return RoICache(folder, expected_index(cfg, training_records(cfg)))


def trained_model(cfg):
    """The model away from the identity, where alpha, beta and sigma all have gradients."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(False)
    torch.manual_seed(3)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return trainer.model.train()


def losses_and_gradients(model, batch):
    model.zero_grad()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def test_cached_losses_and_gradients_are_those_of_the_images_bit_for_bit(configure):
    cfg = configure()
    model, cache, records = trained_model(cfg), open_cache(cfg), training_records(cfg)
    images = AugmentedImages(records, build_mapper(cfg, cfg.DATASETS.TRAIN[0], True), range(12))
    for epoch, image in [(0, 1), (1, 0), (1, 5)]:
        number = epoch * NUM_IMAGES + image
        item = images[number]
        # The draws of RoIs in the model's step.
        seed_all_rng(number)
        uncached = losses_and_gradients(model, [item])
        cached = losses_and_gradients(model, [{"rois": cache.read(epoch, image)}])
        assert len(uncached[1]) == 4 * len(uncached[0])
        for got, expected in zip(cached, uncached, strict=True):
            assert_same(got, expected)


def test_a_cached_batch_has_the_loss_of_the_heads_own_output_layers(configure):
    """Against the output layers' ``losses`` on their ``forward``, as an unskipped step has it."""
    cfg = configure()
    model, cache = trained_model(cfg), open_cache(cfg)
    batch = [{"rois": cache.read(0, image)} for image in (1, 2, 4)]
    got, _ = losses_and_gradients(model, batch)
    predictors = model.roi_heads.box_predictor
    predictors = predictors if isinstance(predictors, torch.nn.ModuleList) else [predictors]
    assert len(got) == len(predictors)
    for loss, predictor, rois in zip(
        got.values(), predictors, zip(*(item["rois"] for item in batch), strict=True), strict=True
    ):
        proposals = []
        for of_image in rois:
            boxes = torch.rand(len(of_image.classes), 4)
            boxes[:, 2:] += 2
            instances = Instances((64, 64), gt_classes=of_image.classes)
            instances.proposal_boxes = instances.gt_boxes = Boxes(boxes)
            proposals.append(instances)
        features = torch.cat([of_image.features for of_image in rois])
        with EventStorage():
            expected = predictor.losses(predictor(features), proposals)["loss_cls"]
        torch.testing.assert_close(loss, expected.detach(), atol=1e-6, rtol=1e-6)


def test_rois_are_those_of_the_image_and_differ_between_epochs(configure):
    cfg = configure()
    cache, records = open_cache(cfg), training_records(cfg)
    stages = 3 if "Cascade" in cfg.MODEL.ROI_HEADS.NAME else 1
    for image, record in enumerate(records):
        own = {a["category_id"] for a in record["annotations"]}
        for epoch in (0, 1):
            rois = cache.read(epoch, image)
            assert len(rois) == stages
            for features, classes in rois:
                assert features.dtype == torch.float32
                assert features.shape == (len(classes), 12)
                assert len(classes) <= 16
                assert set(classes.tolist()) <= {*own, 3}
            # Ground truth boxes are among the proposals: the first stage has every class.
            assert own <= set(rois[0].classes.tolist())
        first, second = (cache.read(epoch, image)[0].features for epoch in (0, 1))
        assert first.shape != second.shape or not torch.equal(first, second)


def test_training_changes_the_calibration_alone(configure, tmp_path):
    cfg = configure("OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", 8, "SOLVER.BASE_LR", 0.5)
    trainer = Trainer(cfg)
    trainer.resume_or_load(False)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {n for n, v in trainer.model.state_dict().items() if not torch.equal(v, before[n])}
    learned = {n for n in before if ".calibration." in n}
    assert changed == learned


def test_every_rho_trains_on_the_same_cache(configure, tmp_path):
    learned = []
    for rho in (0.0, 1.0):
        output = tmp_path / str(rho)
        output.mkdir()
        cfg = configure("OUTPUT_DIR", str(output), "MODEL.DISALIGN.RHO", rho, "SEED", 5)
        seed_all_rng(5)
        trainer = Trainer(cfg)
        trainer.resume_or_load(False)
        trainer.train()
        predictor = trainer.model.roi_heads.box_predictor
        predictor = predictor[0] if isinstance(predictor, torch.nn.ModuleList) else predictor
        learned.append(predictor.calibration.alpha.detach().clone())
    assert not torch.equal(*learned)


def drawn(cfg, count):
    """Which (epoch, image) the loader's first batches are made of, by their features."""
    cache = open_cache(cfg)
    pairs = itertools.product(range(cache.index.epochs), range(NUM_IMAGES))
    names = {_key(cache.read(*pair)): pair for pair in pairs}
    assert len(names) == cache.index.epochs * NUM_IMAGES
    loader = build_roi_cache_loader(cfg, training_records(cfg))
    batches = list(itertools.islice(loader, count))
    assert {len(batch) for batch in batches} == {cfg.SOLVER.IMS_PER_BATCH}
    return [names[_key(item["rois"])] for batch in batches for item in batch]


def _key(rois):
    return tuple(part.numpy().tobytes() for stage in rois for part in stage)


def test_the_training_sampler_draws_every_image_once_a_round_from_either_epoch(configure):
    seed_all_rng(1)
    pairs = drawn(configure(), 60)
    for start in range(0, 120, NUM_IMAGES):
        assert sorted(image for _, image in pairs[start : start + NUM_IMAGES]) == list(range(6))
    # 120 fair draws: 60 +- 4 sigma = 60 +- 22.
    assert 38 <= sum(epoch for epoch, _ in pairs) <= 82
    seed_all_rng(1)
    assert drawn(configure(), 60) == pairs


def test_samplers_that_favour_rare_classes_work_on_a_cache(configure):
    """Of 6 images all have red, 1, 3 and 5 green, 1 blue."""
    name = "DATALOADER.SAMPLER_TRAIN"
    seed_all_rng(2)
    pairs = drawn(configure(name, "ClassBalancedTrainingSampler"), 300)
    counts = collections.Counter(image for _, image in pairs)
    # P(1) = 1/3 (1/6 + 1/3 + 1) = 1/2: 300 +- 4 sigma of 600 draws, 12.2 each.
    assert abs(counts[1] - 300) < 49
    # P(0) = 1/3 1/6: 33.3 +- 4 * 5.6.
    assert abs(counts[0] - 33.3) < 23
    repeat = [name, "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 1.5]
    counts = collections.Counter(i for _, i in drawn(configure(*repeat), 300))
    # Factors: blue sqrt(1.5 * 6) = 3, green sqrt(3), red sqrt(1.5); 3 + 2 * 1.732 + 3 * 1.225 in
    # all, so that image 1 is drawn in 29.6 % of the 600 draws, image 0 in 12.1 %.
    assert abs(counts[1] - 177.5) < 45
    assert abs(counts[0] - 72.5) < 32


def test_any_number_of_rois_survives_the_file_bit_for_bit(tmp_path):
    """Also none: an image whose boxes a cascade has all dropped."""
    generator = torch.Generator().manual_seed(0)
    images = [
        [
            RoIs(
                torch.randn(count, 5, generator=generator),
                torch.randint(0, 4, (count,), generator=generator),
            )
            for count in counts
        ]
        for counts in [(3, 0), (0, 0), (1, 7)]
    ]
    index = Index(1, "", "", {}, [], num_images=3, images_per_shard=2, epochs=1)
    write_index(tmp_path, index)
    for shard in (0, 1):
        write_shard(tmp_path / shard_name(shard), [images[i] for _, i in index.images(shard)])
    cache = RoICache(tmp_path, index)
    for image, expected in enumerate(images):
        for got, rois in zip(cache.read(0, image), expected, strict=True):
            assert torch.equal(got.features, rois.features)
            assert torch.equal(got.classes, rois.classes)
