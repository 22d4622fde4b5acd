# SPDX-License-Identifier: Apache-2.0
"""The adaptive calibration: what DisAlign's second stage learns.

Shape alphabet:
    C: channels of the classifier's input feature
    K: classes
    N, H, W: images, height and width of feature maps
    S: samples: RoIs, pixels or images
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from .functional import calibrate_logits, identity_magnitude

# Values of MODEL.DISALIGN.CONFIDENCE_BRANCH.
BRANCHES = ("linear", "released")


class AdaptiveCalibration(nn.Module):
    """alpha, beta and the confidence sigma(x) of Eq. 5 or 6, for RoIs, pixels or images.

    At the start alpha = 1 (Eq. 6: 0) and beta = 0, unless it is given: the calibrated logits are
    exactly the given ones.

    Attributes:
        last_confidence: sigma of the last training step, (..., 1) or (N, 1, H, W), for the log. To
            compute it again would move the statistics of batch normalisation twice.
    """

    last_confidence: Tensor | None = None

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        *,
        magnitude: bool = True,
        margin: bool = True,
        confidence: bool = True,
        confidence_bias: bool = True,
        first_beta: Tensor | None = None,
        form: str = "eq5",
        confidence_branch: str = "linear",
    ) -> None:
        """Start from the identity or a margin, with the parameters that are to be learned.

        Args:
            num_classes: K.
            in_features: C.
            magnitude: learn alpha; otherwise it stays what it starts from.
            margin: learn beta; otherwise it stays 0.
            confidence: sigma(x) = sigmoid of one linear layer; otherwise sigma = 1.
            confidence_bias: whether that layer has a bias.
            first_beta: (K,) where beta starts, 0 by default.
            form: ``"eq5"`` or ``"eq6"``, the equation.
            confidence_branch: ``"linear"``, or ``"released"``: sigma(x) = sigmoid of ReLU of batch
                normalisation of a linear layer without bias, the released segmentation head's,
                which is at least 1/2.

        Raises:
            ValueError: neither alpha nor beta is learned, or beta is given a start and not learned;
                or an unknown equation or branch.
        """
        super().__init__()
        if not (magnitude or margin):
            raise ValueError(
                "a calibration without magnitude and margin learns nothing: set MAGNITUDE, MARGIN "
                "or both in MODEL.DISALIGN"
            )
        if first_beta is not None and not margin:
            raise ValueError(
                "MODEL.DISALIGN.INIT prior starts beta elsewhere, but MARGIN False keeps it at 0: "
                "set MARGIN True or INIT identity"
            )
        if confidence_branch not in BRANCHES:
            raise ValueError(
                f"MODEL.DISALIGN.CONFIDENCE_BRANCH must be one of {', '.join(BRANCHES)}, got "
                f"{confidence_branch!r}"
            )
        self.form = form
        alpha = torch.full((num_classes,), identity_magnitude(form))
        beta = torch.zeros(num_classes) if first_beta is None else first_beta.float().clone()
        # What is not learned is a constant: it stays out of checkpoints.
        if magnitude:
            self.alpha = nn.Parameter(alpha)
        else:
            self.register_buffer("alpha", alpha, persistent=False)
        if margin:
            self.beta = nn.Parameter(beta)
        else:
            self.register_buffer("beta", beta, persistent=False)
        self.confidence_layer = None
        self.confidence_norm = None
        if confidence:
            released = confidence_branch == "released"
            bias = confidence_bias and not released
            self.confidence_layer = nn.Linear(in_features, 1, bias=bias)
            nn.init.normal_(self.confidence_layer.weight, std=0.01)
            if bias:
                nn.init.zeros_(self.confidence_layer.bias)
            if released:
                self.confidence_norm = nn.BatchNorm1d(1)

    def confidence(self, features: Tensor) -> Tensor:
        """sigma(x) in [0, 1]: (..., C) features to (..., 1)."""
        if self.confidence_layer is None:
            return features.new_ones(*features.shape[:-1], 1)
        return self._squashed(self.confidence_layer(features))

    def _squashed(self, score: Tensor) -> Tensor:
        """Scores of the confidence's layer, in any shape, to sigma."""
        if self.confidence_norm is not None:
            score = self.confidence_norm(score.reshape(-1, 1)).view_as(score).relu()
        return score.sigmoid()

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        """Calibrate.

        Args:
            logits: (..., K) scores of the frozen classifier.
            features: (..., C) what entered it.

        Returns:
            (..., K) calibrated scores.
        """
        confidence = self._kept(self.confidence(features))
        return calibrate_logits(logits, self.alpha, self.beta, confidence, self.form)

    def _kept(self, confidence: Tensor) -> Tensor:
        """The same, kept for the log in training."""
        if self.training:
            self.last_confidence = confidence.detach()
        return confidence

    def confidence_map(self, features: Tensor) -> Tensor:
        """:meth:`confidence` of every cell: (N, C, H, W) features to (N, 1, H, W)."""
        layer = self.confidence_layer
        if layer is None:
            return torch.ones_like(features[:, :1])
        # As a convolution: a linear layer would copy the features to have their channels last.
        return self._squashed(F.conv2d(features, layer.weight[:, :, None, None], layer.bias))

    def calibrate_map(self, logits: Tensor, features: Tensor) -> Tensor:
        """Calibrate every cell.

        Args:
            logits: (N, K, H, W) scores of the frozen classifier.
            features: (N, C, H, W) what entered it.

        Returns:
            (N, K, H, W) calibrated scores.
        """
        confidence = self._kept(self.confidence_map(features))
        z, sigma = (x.movedim(1, -1) for x in (logits, confidence))
        calibrated = calibrate_logits(z, self.alpha, self.beta, sigma, self.form)
        # Not -1, which torch writes into ONNX files as it is, and onnxruntime does not read.
        return calibrated.movedim(calibrated.dim() - 1, 1)


@torch.no_grad()
def log_calibration(
    calibration: AdaptiveCalibration,
    confidence: Tensor,
    classes: Tensor,
    class_groups: Mapping[str, Sequence[int]],
) -> None:
    """Write a calibration to detectron2's event storage, as ``disalign/...``.

    For each group the mean alpha and beta of its classes, and the 10, 50 and 90 % quantiles of
    sigma over its samples.

    Args:
        calibration: what is trained.
        confidence: S values of sigma, in any shape.
        classes: as many ground truth classes, in the same order.
        class_groups: class indices by group; one that holds classes beyond K, the background, has
            no alpha and beta.
    """
    sigma, classes = confidence.flatten().float(), classes.flatten()
    scalars = {}
    for name, indices in class_groups.items():
        members = torch.as_tensor(indices, device=classes.device)
        if indices and max(indices) < len(calibration.alpha):
            scalars[f"alpha/{name}"] = calibration.alpha[members].mean()
            scalars[f"beta/{name}"] = calibration.beta[members].mean()
        of_group = sigma[torch.isin(classes, members)]
        if len(of_group):
            levels = of_group.new_tensor([0.1, 0.5, 0.9])
            quantiles = of_group.quantile(levels).unbind()
            for level, value in zip((10, 50, 90), quantiles, strict=True):
                scalars[f"sigma_q{level}/{name}"] = value
    if scalars:
        # One transfer from the device for all of them.
        values = torch.stack(list(scalars.values())).tolist()
        storage = get_event_storage()
        for key, value in zip(scalars, values, strict=True):
            storage.put_scalar(f"disalign/{key}", value)
