# SPDX-License-Identifier: Apache-2.0
"""Second stages of an image classifier: its features are frozen, a small part is trained.

Everything but the modules in ``trained_module_names`` is frozen by
:mod:`longtail.engine.training.stages`.

Shape alphabet:
    N: images of the batch
    C: channels of the features
    D: outputs of the classifier, K (classes) for most losses
"""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from longtail.modeling.scaling import ClassScaling

from .image_classifier import ImageClassifier


class SecondStageImageClassifier(ImageClassifier):
    """The common part of second stages: no gradient below the classifier's input.

    A second stage that trains with ``class_loss`` names it among its trained modules, since some
    losses have a state (such as counts of what they have seen) that belongs to the training.
    """

    trained_module_names: tuple[str, ...] = ()

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images to the (N, C) features before the classifier, without gradients."""
        return super().pooled(images)


@META_ARCH_REGISTRY.register()
class RetrainedImageClassifier(SecondStageImageClassifier):
    """cRT: a new classifier is trained on the frozen features.

    With class-balanced sampling it is the method of Kang et al.; on a balanced training set of
    many more images it is the empirical bound of DisAlign's Section 3.1; with the loss ``bags`` it
    is balanced group softmax as its authors train it. The first stage's classifier, one of K
    outputs, stays in the checkpoint.
    """

    trained_module_names = ("retrained_classifier", "class_loss")

    @configurable
    def __init__(self, **kwargs: object) -> None:
        """Add a new classifier beside the first stage's.

        Args:
            kwargs: as for :class:`~longtail.modeling.ImageClassifier`.
        """
        super().__init__(**kwargs)
        self.retrained_classifier = self.new_classifier()
        # The first stage had a loss of K outputs, whatever this one's has.
        if self.class_loss.num_logits != self.class_loss.num_classes:
            self.classifier = self.new_classifier(self.class_loss.num_classes)

    def class_logits(self, features: Tensor) -> Tensor:
        """(N, C) features to (N, D) logits of the new classifier."""
        return self.retrained_classifier(features)


@META_ARCH_REGISTRY.register()
class ScaledImageClassifier(SecondStageImageClassifier):
    """LWS (learnable weight scaling) of Kang et al.: z_j = f_j (w_j.x + b_j), f is trained.

    At the start f = 1: the scores are exactly the first stage's.
    """

    trained_module_names = ("scaling", "class_loss")
    # Decay would pull the factors to 0, those of classes that are rarely drawn the most: the
    # method is to learn them from the data alone.
    no_decay_params = ("factor",)

    @configurable
    def __init__(self, **kwargs: object) -> None:
        """Add one factor for each output of the first stage's classifier.

        Args:
            kwargs: as for :class:`~longtail.modeling.ImageClassifier`.
        """
        super().__init__(**kwargs)
        self.scaling = ClassScaling(self.class_loss.num_logits)

    def class_logits(self, features: Tensor) -> Tensor:
        """(N, C) features to (N, D) scaled logits."""
        return self.scaling(super().class_logits(features))
