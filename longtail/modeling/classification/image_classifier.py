# SPDX-License-Identifier: Apache-2.0
"""The image classifier: a backbone that makes a vector of an image, a classifier, a loss.

Shape alphabet:
    N: images of the batch
    C: channels of the vector
    K: classes
    D: outputs of the classifier, K for most losses
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from longtail.losses import IMAGES, ClassLoss, build_loss
from longtail.modeling.cosine import cosine_classifier

from .augmentation import shifted_and_flipped


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """Classify images."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        class_loss: ClassLoss,
        classifier_type: str = "linear",
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        pad: int = 0,
        flip: bool = False,
    ) -> None:
        """Put a new classifier on a backbone.

        Args:
            backbone: with the output ``pooled``, (N, C).
            class_loss: says how many outputs the classifier needs, and what their probabilities
                are.
            classifier_type: ``"linear"`` or ``"cosine"``.
            pixel_mean: (3,), in the order and scale of the input's channels.
            pixel_std: (3,), likewise.
            pad: in training, images are shifted at random by up to so many pixels.
            flip: in training, and with ``pad`` above 0, images are mirrored at random.

        Raises:
            ValueError: the backbone makes no vector, another type of classifier, or ``pad`` is
                negative.
        """
        super().__init__()
        if "pooled" not in backbone.output_shape():
            raise ValueError(
                f"{type(self).__name__} needs one vector an image, MODEL.BACKBONE.NAME "
                f"TimmClassificationBackbone or CifarResNet, got {type(backbone).__name__}"
            )
        if pad < 0:
            raise ValueError(f"INPUT.CLASSIFICATION.PAD must be 0 or more, got {pad}")
        self.backbone = backbone
        self.class_loss = class_loss
        self.classifier_type = classifier_type
        self.pad = pad
        self.flip = flip
        self.classifier = self.new_classifier()
        self.register_buffer(
            "pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False
        )
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Build backbone and loss, and read MODEL.CLASSIFIER.TYPE and the pixels' normalization."""
        return {
            "backbone": build_backbone(cfg),
            "class_loss": build_loss(cfg, IMAGES),
            "classifier_type": cfg.MODEL.CLASSIFIER.TYPE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "pad": cfg.INPUT.CLASSIFICATION.PAD,
            "flip": cfg.INPUT.RANDOM_FLIP == "horizontal",
        }

    def new_classifier(self, num_logits: int | None = None) -> nn.Module:
        """A classifier of the model's type, with initial weights.

        Args:
            num_logits: its outputs, by default D of the class loss.

        Raises:
            ValueError: there is no such type, or the loss needs another.
        """
        in_features = self.backbone.output_shape()["pooled"].channels
        num_logits = num_logits or self.class_loss.num_logits
        if self.classifier_type == "cosine":
            return cosine_classifier(
                "MODEL.CLASSIFIER.TYPE", in_features, self.class_loss, num_logits
            )
        if self.classifier_type != "linear":
            raise ValueError(
                f"MODEL.CLASSIFIER.TYPE must be 'linear' or 'cosine', got {self.classifier_type!r}"
            )
        linear = nn.Linear(in_features, num_logits)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.constant_(linear.bias, self.class_loss.initial_bias)
        return linear

    @property
    def device(self) -> torch.device:
        """The device that images are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Compute the loss in training, probabilities otherwise.

        Args:
            batched_inputs: dicts with ``image``, (3, H, W) of one size in the batch, and for
                training ``label``, 0..K-1.

        Returns:
            In training ``{"loss_cls": scalar}``, otherwise for each image ``{"scores": (K,)}``,
            its probabilities.
        """
        features = self.features(batched_inputs)
        if self.training:
            return {"loss_cls": self.loss(features, self.labels(batched_inputs))}
        return self.predictions(features)

    def predictions(self, features: Tensor) -> list[dict[str, Tensor]]:
        """(N, C) features to ``{"scores": (K,)}`` for each, its probabilities."""
        # Not in the lower precision that the layers may have.
        probabilities = self.class_loss.probabilities(self.class_logits(features).float())
        return [{"scores": scores} for scores in probabilities]

    def loss_normalizers(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """The divisor of the loss: with it, the losses of parts add up to a batch's.

        Args:
            batched_inputs: as in training.

        Raises:
            ValueError: the losses of parts do not add up.
        """
        return {"loss_cls": self.normalizer(self.labels(batched_inputs))}

    def labels(self, batched_inputs: list[dict]) -> Tensor:
        """(N,) classes of the images."""
        return torch.tensor([item["label"] for item in batched_inputs], device=self.device)

    def features(self, batched_inputs: list[dict]) -> Tensor:
        """The (N, C) features that enter the classifier."""
        images = torch.stack([item["image"] for item in batched_inputs]).to(self.device)
        if self.training and self.pad:
            images = shifted_and_flipped(images, self.pad, flip=self.flip)
        return self.pooled(images)

    def pooled(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images on the model's device, shifted already, to (N, C) features."""
        return self.backbone((images - self.pixel_mean) / self.pixel_std)["pooled"]

    def class_logits(self, features: Tensor) -> Tensor:
        """(N, C) features to (N, D) logits."""
        return self.classifier(features)

    def loss(self, features: Tensor, classes: Tensor) -> Tensor:
        """(N, C) features and (N,) classes to a scalar, a mean over the images of all processes."""
        return self.class_loss(self.class_logits(features), classes)

    def normalizer(self, classes: Tensor) -> Tensor:
        """The divisor of the loss of (N,) classes, a scalar: images or the sum of their weights."""
        return self.class_loss.normalizer(classes)
