"""The second stage of semantic segmentation: a frozen head whose pixel scores are calibrated.

Shape alphabet:
    N: images of the batch
    C: channels of the pixel features
    H, W: height and width of the pixel features
    h, w: height and width of the (padded) images and their label maps
    K: classes
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.evaluation.sem_seg.metrics import groups_by_pixel_share
from longtail.losses.cross_entropy import mean_over_processes, pixel_cross_entropy, total_weight
from longtail.modeling.sem_seg.blocks import resize
from longtail.modeling.sem_seg.wrapping import SemSegHeadWrapper

from .calibration import AdaptiveCalibration, log_calibration
from .reference import calibration_options, checked_class_weights, class_weights


@SEM_SEG_HEADS_REGISTRY.register()
class DisAlignSemSegHead(SemSegHeadWrapper):
    """Wrap a trained semantic head and calibrate its scores (Eq. 5) at every pixel.

    The wrapped head is in evaluation mode also in training: what its dropout, its auxiliary head or
    a region branch would do there is not computed. The calibration takes the place of the pixel
    classifier's output, at the resolution of the features; what follows, up to the scores at image
    size, is in training what it is in testing.
    """

    config_node = "DISALIGN"
    own_module = "calibration"
    # All other parameters and buffers of the model are frozen (longtail.engine.training.stages).
    trained_module_names = ("calibration",)
    # Decay would pull alpha to 0, away from the identity.
    no_decay_params = ("alpha", "beta")
    remedies = {
        "region_classifier.": "They are of a head with a region branch: set "
        "MODEL.DISALIGN.BASE_HEAD_NAME to RegionRebalanceHead"
    }

    @configurable
    def __init__(
        self,
        base_head: nn.Module,
        *,
        num_classes: int,
        class_weights: Tensor,
        class_groups: Mapping[str, Sequence[int]],
        pixel_classifier: str = "predictor",
        loss_weight: float = 1.0,
        weighted_mean: bool = True,
        pad_to_stride: bool = True,
        **calibration: bool,
    ) -> None:
        """
        Args:
            base_head, pixel_classifier: see :class:`SemSegHeadWrapper`.
            num_classes: K.
            class_weights: (K,) w_c of Eq. 11.
            class_groups: class indices by frequency group, for the log.
            loss_weight: factor of the loss.
            weighted_mean: the loss is sum(w l) / sum(w) over the valid pixels; otherwise
                sum(w l) / their number.
            pad_to_stride: how the segmentor brings logits to the size of the image, see
                :class:`longtail.modeling.LongTailSemanticSegmentor`: the loss is that of the
                logits in testing.
            calibration: options of :class:`AdaptiveCalibration`.

        Raises:
            ValueError: weights of another length than the number of classes, or no such submodule.
        """
        super().__init__(base_head, pixel_classifier)
        weights = checked_class_weights(
            class_weights, num_classes, "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
        )
        # They belong to the data, not to the weights: they stay out of checkpoints.
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_groups = {name: list(classes) for name, classes in class_groups.items()}
        self.loss_weight = loss_weight
        self.weighted_mean = weighted_mean
        self.pad_to_stride = pad_to_stride
        self.calibration = AdaptiveCalibration(num_classes, self.pixel_channels, **calibration)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        head = cfg.MODEL.SEM_SEG_HEAD
        weights, stats = class_weights(cfg, "pixel_count", head.NUM_CLASSES)
        groups: Mapping[str, Sequence[int]] = {}
        if stats:
            # As the evaluator's.
            groups = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("class_groups", None)
            groups = groups or groups_by_pixel_share(stats.pixel_count)
        return {
            "base_head": cls.build_base_head(cfg, input_shape),
            "num_classes": head.NUM_CLASSES,
            "pixel_classifier": cfg.MODEL.DISALIGN.PIXEL_CLASSIFIER,
            "loss_weight": head.LOSS_WEIGHT,
            "class_weights": weights,
            "class_groups": groups,
            "pad_to_stride": head.PAD_TO_STRIDE,
            **calibration_options(cfg),
        }

    def train(self, mode: bool = True) -> "DisAlignSemSegHead":
        """The wrapped head stays in evaluation mode."""
        super().train(mode)
        self.base_head.eval()
        return self

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Args:
            features: the backbone's feature maps by name.
            targets: (N, h, w) labels, needed in training.

        Returns:
            In training None and the alignment loss as ``loss_sem_seg``; otherwise the wrapped
            head's (N, K, h, w) logits, calibrated, and no losses.
        """
        if not self.training:
            with self._calibrated():
                return self.base_head(features)[0], {}
        height, width = targets.shape[1:]
        with self._calibrated() as confidence:
            if self.pad_to_stride:
                # Logits end with the last feature cell, which may reach over the image.
                logits = self.base_head(features)[0][..., :height, :width]
            else:
                logits = resize(self.base_head.layers(features), size=(height, width))
        self._log(confidence[0], targets)
        return None, {"loss_sem_seg": self.alignment_loss(logits, targets)}

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """The wrapped head's (N, K, H, W) logits, calibrated and not resized."""
        with self._calibrated():
            return self.base_head.layers(features)

    @contextmanager
    def _calibrated(self) -> Iterator[list[Tensor]]:
        """While the context is open, the classifier's output is calibrated; sigma goes to a list.

        It is (N, 1, H, W).
        """
        confidence: list[Tensor] = []

        def calibrate(entered: Tensor, logits: Tensor) -> Tensor:
            confidence.append(self.calibration.confidence_map(entered))
            return self.calibration.calibrate_map(logits, confidence[0])

        with self.classifier_hook(calibrate):
            yield confidence

    def alignment_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Eq. 9 and 10 over the valid pixels of all processes.

        Args:
            logits: (N, K, h, w), calibrated.
            targets: (N, h, w) labels.

        Returns:
            A scalar; zero, with a zero gradient, if no pixel is valid.
        """
        loss = pixel_cross_entropy(
            logits, targets, class_weight=self.class_weights, ignore_label=self.ignore_value
        )
        if not self.weighted_mean:
            total = total_weight(targets, self.class_weights, self.ignore_value)
            count = total_weight(targets, None, self.ignore_value)
            loss = loss * (mean_over_processes(total) / mean_over_processes(count))
        return self.loss_weight * loss

    def loss_normalizers(self, targets: Tensor) -> dict[str, Tensor]:
        """What the loss is a mean over: with it, the losses of parts add up to a batch's.

        Args:
            targets: (N, h, w) labels.
        """
        weights = self.class_weights if self.weighted_mean else None
        return {"loss_sem_seg": total_weight(targets, weights, self.ignore_value)}

    def _log(self, confidence: Tensor, targets: Tensor) -> None:
        size = confidence.shape[2:]
        cells = F.interpolate(targets[:, None].float(), size=size, mode="nearest").long()
        log_calibration(self.calibration, confidence, cells, self.class_groups)
