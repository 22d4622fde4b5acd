# SPDX-License-Identifier: Apache-2.0
"""Mask2Former's head: queries that each give a mask and the class of it.

Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022. The
layers and the loss are those of transformers' ``Mask2FormerForUniversalSegmentation``; the backbone
is any of detectron2's with four levels.

Shape alphabet:
    N: images of the batch
    C: channels of the mask features
    H, W: height and width of the mask features, those of the finest level
    h, w: height and width of the (padded) images and their label maps
    K: classes; the last of the K + 1 scores of a query is that of "no object"
    Q: queries
    M: masks of an image, one for each class that it shows
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from longtail.losses.reduction import mean_over_processes

from .blocks import check_positive, resize
from .fcn import check_levels, fine_to_coarse
from .query_decoders import KEY, MaskFeatures, build_query_decoders

# transformers normalises groups of 32 channels.
GROUPS = 32
# The log of a score is not taken below: a sum of sigmoids may underflow.
SMALLEST = 1e-12


@dataclass(frozen=True)
class Queries:
    """What the queries say, of each layer of the decoder, the last one last.

    Attributes:
        states: (N, Q, D) what enters the classifier of queries, of the last layer alone.
        class_logits: (N, Q, K + 1) each.
        mask_logits: (N, Q, H, W) each.
    """

    states: Tensor
    class_logits: list[Tensor]
    mask_logits: list[Tensor]


@SEM_SEG_HEADS_REGISTRY.register()
class Mask2FormerHead(nn.Module):
    r"""A pixel decoder and a decoder of queries on four levels of a backbone.

    In training one query is matched with each class of an image. In testing the score of class c
    at pixel p is

    .. math::

        s_c(p) = \sum_q \mathrm{softmax}(z_q)_c \; \sigma(m_q(p)), \qquad c < K

    and the head gives log s_c(p): its arg max is the paper's, and a softmax over the classes, as
    multi-scale testing and scores take it of all heads, gives s normalized to sum 1.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: tuple[str, ...],
        num_classes: int,
        options: Mapping[str, object],
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ) -> None:
        """Build the decoders with random weights; nothing is downloaded.

        Args:
            input_shape: the backbone's maps.
            in_features: names of four levels from fine to coarse, each of half the last one's size.
            num_classes: K.
            options: further arguments of transformers' ``Mask2FormerConfig``.
            loss_weight: factor of all losses.
            ignore_value: label of the pixels that belong to no mask.

        Raises:
            ImportError: transformers is not installed.
            ValueError: other levels.
        """
        super().__init__()
        shapes = [input_shape[level] for level in in_features]
        strides = [shape.stride for shape in shapes]
        if strides != [strides[0] * factor for factor in (1, 2, 4, 8)]:
            raise ValueError(
                f"{KEY} reads four levels, each at twice the stride of the last one, got strides "
                f"{strides}: set MODEL.SEM_SEG_HEAD.IN_FEATURES to res2, res3, res4 and res5, and "
                "the backbone's OUTPUT_STRIDE to 32"
            )
        self.in_features = in_features
        self.num_classes = num_classes
        self.common_stride = strides[0]
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.mask2former = build_query_decoders(
            [shape.channels for shape in shapes],
            num_labels=num_classes,
            common_stride=strides[0],
            feature_strides=strides,
            **options,
        )
        self.predictor = MaskFeatures(self.mask2former.config.mask_feature_size)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read MODEL.SEM_SEG_HEAD and MODEL.MASK2FORMER.

        Raises:
            ValueError: levels that the backbone does not return, or a size that is not possible.
        """
        head, own = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK2FORMER
        check_levels(head.IN_FEATURES, input_shape)
        if head.PIXEL_LOSS != "cross_entropy":
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.PIXEL_LOSS {head.PIXEL_LOSS}: a Mask2FormerHead has losses of "
                "its own and no other one: set it to cross_entropy"
            )
        channels = head.CONVS_DIM
        check_positive("MODEL.SEM_SEG_HEAD.CONVS_DIM", [channels])
        for key in ("QUERIES", "HEADS", "PIXEL_DECODER_LAYERS", "DECODER_LAYERS", "POINTS"):
            check_positive(f"MODEL.MASK2FORMER.{key}", [own[key]])
        if channels % GROUPS or channels % own.HEADS:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM {channels} must be a multiple of {GROUPS} and of "
                f"MODEL.MASK2FORMER.HEADS {own.HEADS}"
            )
        return {
            "input_shape": input_shape,
            "in_features": fine_to_coarse(cfg, input_shape, least=4),
            "num_classes": head.NUM_CLASSES,
            "loss_weight": head.LOSS_WEIGHT,
            "ignore_value": head.IGNORE_VALUE,
            "options": {
                "feature_size": channels,
                "mask_feature_size": channels,
                "hidden_dim": channels,
                "num_queries": own.QUERIES,
                "num_attention_heads": own.HEADS,
                "encoder_layers": own.PIXEL_DECODER_LAYERS,
                "encoder_feedforward_dim": 4 * channels,
                # transformers counts the prediction before the first layer.
                "decoder_layers": own.DECODER_LAYERS + 1,
                "dim_feedforward": 8 * channels,
                "train_num_points": own.POINTS,
                "class_weight": own.CLASS_WEIGHT,
                "mask_weight": own.MASK_WEIGHT,
                "dice_weight": own.DICE_WEIGHT,
                "no_object_weight": own.NO_OBJECT_WEIGHT,
            },
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute the losses in training, scores otherwise.

        Args:
            features: the backbone's maps by name.
            targets: (N, h, w) labels, needed in training.

        Returns:
            In training None and :meth:`losses`; otherwise the (N, K, h, w) logs of the scores, and
            no losses. Their size is the maps' times the stride, that of images padded to it.
        """
        queries = self.queries(features)
        if self.training:
            return None, self.losses(queries, targets)
        return self.log_scores(queries.class_logits[-1], queries.mask_logits[-1]), {}

    def queries(self, features: dict[str, Tensor]) -> Queries:
        """Run both decoders on the backbone's maps."""
        model = self.mask2former.model
        pixels = model.pixel_level_module.decoder([features[level] for level in self.in_features])
        decoded = model.transformer_module(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=self.predictor(pixels.mask_features),
            output_hidden_states=True,
        )
        states = [state.transpose(0, 1) for state in decoded.intermediate_hidden_states]
        return Queries(
            states[-1],
            [self.mask2former.class_predictor(state) for state in states],
            list(decoded.masks_queries_logits),
        )

    def log_scores(self, class_logits: Tensor, mask_logits: Tensor) -> Tensor:
        """(N, Q, K + 1) and (N, Q, H, W) logits to the (N, K, h, w) logs of the scores."""
        with torch.autocast(mask_logits.device.type, enabled=False):
            dtype = torch.promote_types(mask_logits.dtype, torch.float32)
            # As in the paper, masks grow before they are added up.
            masks = resize(mask_logits.to(dtype), scale_factor=self.common_stride).sigmoid()
            classes = class_logits.to(dtype).softmax(dim=-1)[..., :-1]
            return torch.einsum("nqk,nqhw->nkhw", classes, masks).clamp_min(SMALLEST).log()

    def losses(self, queries: Queries, targets: Tensor) -> dict[str, Tensor]:
        """The cross-entropy of the queries' classes, and two losses of the matched masks.

        Args:
            queries: of all layers.
            targets: (N, h, w) labels.

        Returns:
            ``loss_cross_entropy``, ``loss_mask`` and ``loss_dice``, each the sum over the layers,
            with their weights. With several processes their average is the loss of the whole batch.

        Raises:
            ValueError: a label out of range.
        """
        masks, classes = self.ground_truth(targets)
        model = self.mask2former
        # transformers multiplies by the weights in place, and numbers those of earlier layers.
        found = model.get_loss_dict(
            queries.mask_logits[-1],
            queries.class_logits[-1],
            masks,
            classes,
            model.get_auxiliary_logits(queries.class_logits, queries.mask_logits),
        )
        losses = {}
        for name, own in self._normalizers(classes).items():
            layers = [loss for key, loss in found.items() if key.startswith(name)]
            # What divides the loss of this process, in place of it the mean of all processes'.
            losses[name] = self.loss_weight * sum(layers) * (own / mean_over_processes(own))
        return losses

    def ground_truth(self, targets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The masks of the classes that each image shows, ordered by class.

        Args:
            targets: (N, h, w) labels.

        Returns:
            For each image (M, h, w) float32 masks of 0 and 1, and (M,) int64 classes; M may be 0.

        Raises:
            ValueError: a label out of range.
        """
        masks, classes = [], []
        for labels in targets:
            present = labels.unique().long()
            present = present[present != self.ignore_value]
            beyond = present[(present < 0) | (present >= self.num_classes)]
            if len(beyond):
                raise ValueError(
                    f"labels contain {beyond[0].item()}, expected 0..{self.num_classes - 1} or the "
                    f"ignore label {self.ignore_value}: check the data set's label maps and "
                    "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
                )
            masks.append((labels == present[:, None, None]).float())
            classes.append(present)
        return masks, classes

    @torch.no_grad()
    def matched_classes(self, queries: Queries, targets: Tensor) -> Tensor:
        """The class of each query of the last layer, by the matching of the losses.

        Args:
            queries: of all layers.
            targets: (N, h, w) labels.

        Returns:
            (N, Q) int64; K, "no object", for a query without a mask.

        Raises:
            ValueError: a label out of range.
        """
        masks, classes = self.ground_truth(targets)
        logits = queries.class_logits[-1]
        matches = self.mask2former.criterion.matcher(
            queries.mask_logits[-1], logits, masks, classes
        )
        matched = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        for row, present, (query, mask) in zip(matched, classes, matches, strict=True):
            row[query] = present[mask]
        return matched

    def loss_normalizers(self, targets: Tensor) -> dict[str, Tensor]:
        """The divisor of each loss: with it, the losses of parts add up to a batch's.

        Args:
            targets: (N, h, w) labels.
        """
        return self._normalizers(self.ground_truth(targets)[1])

    def _normalizers(self, classes: list[Tensor]) -> dict[str, Tensor]:
        """Masks, and the weights of matched and other queries, of (M,) classes of each image."""
        config, device = self.mask2former.config, classes[0].device
        masks = sum(len(present) for present in classes)
        matched = sum(min(len(present), config.num_queries) for present in classes)
        others = len(classes) * config.num_queries - matched
        values = {
            "loss_cross_entropy": matched + config.no_object_weight * others,
            "loss_mask": masks,
            "loss_dice": masks,
        }
        return {name: torch.tensor(float(value), device=device) for name, value in values.items()}
