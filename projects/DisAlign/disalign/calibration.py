"""The adaptive calibration: what DisAlign's second stage learns.

Shape alphabet:
    C: channels of the classifier's input feature
    K: classes
"""

import torch
from torch import Tensor, nn

from .functional import calibrate_logits


class AdaptiveCalibration(nn.Module):
    """alpha, beta and the confidence sigma(x) of Eq. 5, for RoIs, pixels or images.

    At the start alpha = 1 and beta = 0: the calibrated logits are exactly the given ones.
    """

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        *,
        magnitude: bool = True,
        margin: bool = True,
        confidence: bool = True,
        confidence_bias: bool = True,
    ) -> None:
        """
        Args:
            num_classes: K.
            in_features: C.
            magnitude: learn alpha; otherwise it stays 1.
            margin: learn beta; otherwise it stays 0.
            confidence: sigma(x) = sigmoid of one linear layer; otherwise sigma = 1.
            confidence_bias: whether that layer has a bias.

        Raises:
            ValueError: neither alpha nor beta is learned.
        """
        super().__init__()
        if not (magnitude or margin):
            raise ValueError(
                "a calibration without magnitude and margin learns nothing: set MAGNITUDE, MARGIN "
                "or both in MODEL.DISALIGN"
            )
        ones, zeros = torch.ones(num_classes), torch.zeros(num_classes)
        # What is not learned is a constant: it stays out of checkpoints.
        if magnitude:
            self.alpha = nn.Parameter(ones)
        else:
            self.register_buffer("alpha", ones, persistent=False)
        if margin:
            self.beta = nn.Parameter(zeros)
        else:
            self.register_buffer("beta", zeros, persistent=False)
        self.confidence_layer = None
        if confidence:
            self.confidence_layer = nn.Linear(in_features, 1, bias=confidence_bias)
            nn.init.normal_(self.confidence_layer.weight, std=0.01)
            if confidence_bias:
                nn.init.zeros_(self.confidence_layer.bias)

    def confidence(self, features: Tensor) -> Tensor:
        """sigma(x) in [0, 1]: (..., C) features to (..., 1)."""
        if self.confidence_layer is None:
            return features.new_ones(*features.shape[:-1], 1)
        return self.confidence_layer(features).sigmoid()

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        """Calibrate.

        Args:
            logits: (..., K) scores of the frozen classifier.
            features: (..., C) what entered it.

        Returns:
            (..., K) calibrated scores.
        """
        return calibrate_logits(logits, self.alpha, self.beta, self.confidence(features))
