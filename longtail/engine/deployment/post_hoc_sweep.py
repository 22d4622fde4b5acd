# SPDX-License-Identifier: Apache-2.0
"""Many strengths of a post hoc method, evaluated in one pass over the data.

The features of an image do not depend on the strength, and what does is applied to each of them:
to the classifier in image classification, to the logits of a segmentor, which the method changes by
a factor and a shift a class. Enlarging logits to the image and averaging them over windows is
linear and keeps both. A detector chooses its boxes by their scores: the backbone and the proposals
are computed once, the heads for every strength.

Shape alphabet:
    K: classes
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNN, SemanticSegmentor
from torch import Tensor, nn
from tqdm import tqdm

from longtail.engine.deployment.post_hoc import Change, post_hoc_change
from longtail.engine.inference.build import build_inference
from longtail.engine.inference.class_maps import ClassMapInference, grouped_classes
from longtail.engine.inference.sliding_window import unchanged
from longtail.engine.training.trainer import Trainer
from longtail.modeling.classification import ImageClassifier


@torch.no_grad()
def evaluate_strengths(cfgs: list[CfgNode], model: nn.Module) -> None:
    """Evaluate a model as each config changes it; each writes its reports into its OUTPUT_DIR.

    In image classification and detection every report is the one of an evaluation of its own. In
    semantic segmentation logits differ by rounding, and so may the class of a pixel where two of
    them are equal but for that.

    Args:
        cfgs: alike but for MODEL.POST_HOC and OUTPUT_DIR; at least one. Every test set is passed
            through once.
        model: an image classifier, a semantic segmentor or a detector with its weights, as it was
            trained; it is not changed.

    Raises:
        ValueError: another model, multi-scale testing, or as
            :func:`~longtail.engine.deployment.post_hoc.apply_post_hoc`.
        OSError: an image or the training set cannot be read.
    """
    ways = {
        ImageClassifier: _classify_all,
        SemanticSegmentor: _segment_all,
        GeneralizedRCNN: _detect_all,
    }
    kind = next((kind for kind in ways if isinstance(model, kind)), None)
    if kind is None:
        raise ValueError(
            f"{type(model).__name__}: it is not known how strengths of a post hoc method share a "
            "pass; evaluate each value by itself, without --weights"
        )
    if cfgs[0].TEST.AUG.ENABLED:
        raise ValueError(
            "TEST.AUG.ENABLED: multi-scale testing averages probabilities, so that strengths do "
            "not share a pass; evaluate each value by itself, without --weights"
        )
    changes = [post_hoc_change(cfg, model)[1] for cfg in cfgs]
    if any(isinstance(change, list) for change in changes):
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {cfgs[0].MODEL.POST_HOC.METHOD} replaces the classifier and "
            "has no strength: evaluate it by itself"
        )
    evaluate_batches = ways[kind]
    was_training = model.training
    model.eval()
    for name in cfgs[0].DATASETS.TEST:
        evaluators = [Trainer.build_evaluator(cfg, name) for cfg in cfgs]
        for evaluator in evaluators:
            evaluator.reset()
        evaluate_batches(cfgs[0], model, name, changes, evaluators)
        for evaluator in evaluators:
            evaluator.evaluate()
    model.train(was_training)


def _classify_all(
    cfg: CfgNode,
    model: ImageClassifier,
    dataset: str,
    changes: list[Change],
    evaluators: list[DatasetEvaluator],
) -> None:
    layer = model.classifier
    trained = layer.weight.clone(), layer.bias.clone()
    classifiers = [change(*trained) for change in changes]
    try:
        for batch in tqdm(Trainer.build_test_loader(cfg, dataset), desc=dataset):
            features = model.features(batch)
            for classifier, evaluator in zip(classifiers, evaluators, strict=True):
                _set(layer, *classifier)
                evaluator.process(batch, model.predictions(features))
    finally:
        _set(layer, *trained)


def _segment_all(
    cfg: CfgNode,
    model: SemanticSegmentor,
    dataset: str,
    changes: list[Change],
    evaluators: list[DatasetEvaluator],
) -> None:
    found, _ = post_hoc_change(cfg, model)
    layer = found.layers[0]
    affine = [factor_and_shift(change, layer.weight, layer.bias) for change in changes]
    inference = build_inference(cfg, model, class_maps=True)
    for batch in tqdm(Trainer.build_test_loader(cfg, dataset), desc=dataset):
        for record in batch:
            if isinstance(inference, ClassMapInference):
                maps, finish = inference.logit_maps(record)
            else:
                maps, finish = inference([record])[0]["sem_seg"], unchanged
            for (factor, shift), evaluator in zip(affine, evaluators, strict=True):
                changed = maps * factor.to(maps) + shift.to(maps)
                classes = grouped_classes(changed, finish, record["file_name"])
                evaluator.process([record], [{"sem_seg": classes}])


def _detect_all(
    cfg: CfgNode,
    model: GeneralizedRCNN,
    dataset: str,
    changes: list[Change],
    evaluators: list[DatasetEvaluator],
) -> None:
    found, _ = post_hoc_change(cfg, model)
    K = found.num_classes
    trained = [(layer.weight.clone(), layer.bias.clone()) for layer in found.layers]
    inference = build_inference(cfg, model, unpasted=True)
    try:
        with _once_a_batch(model.backbone, model.proposal_generator) as next_batch:
            for batch in tqdm(Trainer.build_test_loader(cfg, dataset), desc=dataset):
                next_batch()
                for change, evaluator in zip(changes, evaluators, strict=True):
                    for layer, (weight, bias) in zip(found.layers, trained, strict=True):
                        rows = change(weight[:K], bias[:K])
                        layer.weight[:K], layer.bias[:K] = rows
                    evaluator.process(batch, inference(batch))
    finally:
        for layer, terms in zip(found.layers, trained, strict=True):
            _set(layer, *terms)


@contextlib.contextmanager
def _once_a_batch(*modules: nn.Module) -> Iterator[Callable[[], None]]:
    """Let modules keep what they have given; the function that is yielded has them forget it."""
    kept: dict[nn.Module, Any] = {}

    def keeping(module: nn.Module, compute: Callable) -> Callable:
        def forward(*args: Any, **named: Any) -> Any:
            if module not in kept:
                kept[module] = compute(*args, **named)
            return kept[module]

        return forward

    for module in modules:
        module.forward = keeping(module, module.forward)
    try:
        yield kept.clear
    finally:
        for module in modules:
            del module.forward


def factor_and_shift(change: Change, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """What a change of a linear classifier does to its logits: z_j becomes f_j z_j + s_j.

    Args:
        change: of the classifier, whose rows keep their directions.
        weight: (K, ...) its weight.
        bias: (K,) its bias b: with changed rows f_j w_j and biases b', s_j = b'_j - f_j b_j.

    Returns:
        (K, 1, 1) factors and shifts, float64.

    Raises:
        ValueError: the rows change their directions.
    """
    weight, bias = weight.double(), bias.double()
    changed, changed_bias = change(weight, bias)
    rows, changed = weight.flatten(1), changed.flatten(1)
    squares = rows.square().sum(1)
    # A row of 0 has no direction, and no factor either.
    factor = torch.where(squares > 0, (changed * rows).sum(1) / squares, 1.0)
    if not torch.allclose(changed, factor[:, None] * rows, rtol=1e-5, atol=0):
        raise ValueError(
            "MODEL.POST_HOC.METHOD gives the classifier other directions, not strengths of what it "
            "has: evaluate each value by itself, without --weights"
        )
    shift = changed_bias - factor * bias
    return factor.view(-1, 1, 1), shift.view(-1, 1, 1)


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
