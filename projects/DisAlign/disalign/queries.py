# SPDX-License-Identifier: Apache-2.0
"""The second stage of Mask2Former: the classifier of its queries is calibrated.

Shape alphabet:
    N: images of the batch
    Q: queries
    D: channels of a query's state, which the classifier of queries reads
    K: classes; the last of the K + 1 scores of a query is that of "no object"
    h, w: height and width of the (padded) images and their label maps
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from longtail.losses import PIXELS
from longtail.modeling import Mask2FormerHead
from longtail.modeling.sem_seg.wrapping import SemSegHeadWrapper, innermost

from .calibrated import NO_DECAY, TRAINED, Calibrated
from .reference import calibration_arguments
from .sem_seg import REMEDIES, label_map_groups


@SEM_SEG_HEADS_REGISTRY.register()
class DisAlignQueryHead(Calibrated, SemSegHeadWrapper):
    r"""Wrap a trained :class:`~longtail.modeling.Mask2FormerHead` and calibrate its queries.

    A query is a sample x of Eq. 5: its K class logits are calibrated, that of "no object" is left
    alone, as the background's in detection, and masks stay as they are. The alignment loss is that
    of the last layer's queries, with the classes that the frozen model's matching gives them, and

    .. math::

        w_c \text{ of Eq. 11 from } r_c = \text{training images that show } c, \qquad
        w_\varnothing = \text{the first stage's weight of "no object"}

    since a class gives one query for each image that shows it; another weight of "no object" than
    the first stage's would move all classes against it.
    """

    config_node = "DISALIGN"
    own_module = "calibration"
    trained_module_names = TRAINED
    no_decay_params = NO_DECAY
    remedies = REMEDIES

    @configurable
    def __init__(
        self,
        base_head: nn.Module,
        *,
        num_classes: int,
        class_weights: Tensor,
        class_groups: Mapping[str, Sequence[int]],
        loss_weight: float = 1.0,
        weighted_mean: bool = True,
        calibration: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a trained head and add a calibration.

        Args:
            base_head: the trained head, or a region branch around it.
            num_classes: K.
            class_weights: (K,) weights w_c of Eq. 11.
            class_groups: classes by the name of their group, for the log.
            loss_weight: factor of the loss.
            weighted_mean: see :meth:`.Calibrated.add_calibration`.
            calibration: see :meth:`.Calibrated.add_calibration`.

        Raises:
            ValueError: another head, or weights of another length than the number of classes.
        """
        head = innermost(base_head)
        if not isinstance(head, Mask2FormerHead):
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.NAME DisAlignQueryHead calibrates the queries of a "
                f"Mask2FormerHead, a {type(head).__name__} has none: set "
                "MODEL.DISALIGN.BASE_HEAD_NAME to Mask2FormerHead, or MODEL.SEM_SEG_HEAD.NAME to "
                "DisAlignSemSegHead"
            )
        super().__init__(base_head, "predictor")
        classifier = head.mask2former.class_predictor
        self.add_calibration(
            num_classes,
            classifier.in_features,
            class_weights=class_weights,
            class_groups=class_groups,
            weighted_mean=weighted_mean,
            calibration=calibration,
            classes_key=PIXELS.classes_key,
            background=True,
        )
        self.class_weights[-1] = head.mask2former.config.no_object_weight
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Build the wrapped head, and read the weights from the training set's images."""
        head = cfg.MODEL.SEM_SEG_HEAD
        arguments = calibration_arguments(
            cfg, "image_count", head.NUM_CLASSES, lambda stats: label_map_groups(cfg, stats)
        )
        return {
            "base_head": cls.build_base_head(cfg, input_shape),
            "num_classes": head.NUM_CLASSES,
            "loss_weight": head.LOSS_WEIGHT,
            **arguments,
        }

    def train(self, mode: bool = True) -> "DisAlignQueryHead":
        """The wrapped head stays in evaluation mode."""
        super().train(mode)
        self.base_head.eval()
        return self

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute the alignment loss in training, scores of calibrated queries otherwise.

        Args:
            features: the backbone's feature maps by name.
            targets: (N, h, w) labels, needed in training.

        Returns:
            In training None and the alignment loss as ``loss_cross_entropy``; otherwise what the
            wrapped head gives, (N, K, h, w), and no losses.
        """
        head = innermost(self)
        queries = head.queries(features)
        logits = self.class_scores(queries.class_logits[-1], queries.states)
        if not self.training:
            return head.log_scores(logits, queries.mask_logits[-1]), {}
        classes = head.matched_classes(queries, targets).flatten()
        self.log_calibration(classes)
        loss = self.alignment_loss(logits.flatten(0, 1), classes)
        return None, {"loss_cross_entropy": self.loss_weight * loss}

    def class_scores(self, logits: Tensor, states: Tensor) -> Tensor:
        """(N, Q, K + 1) logits and (N, Q, D) states to (N, Q, K + 1) calibrated scores."""
        foreground = self.calibration(logits[..., :-1], states)
        return torch.cat([foreground, logits[..., -1:].to(foreground)], dim=-1)

    def loss_normalizers(self, targets: Tensor) -> dict[str, Tensor]:
        """The divisor of the loss: with it, the losses of parts add up to a batch's.

        Of an image that shows more classes than there are queries, which of them are matched is
        only known afterwards: the first ones are taken.

        Args:
            targets: (N, h, w) labels.
        """
        head = innermost(self)
        shape = len(targets), head.mask2former.config.num_queries
        classes = torch.full(shape, head.num_classes, device=targets.device)
        for row, present in zip(classes, head.ground_truth(targets)[1], strict=True):
            row[: len(present)] = present[: len(row)]
        return {"loss_cross_entropy": self.alignment_normalizer(classes)}
