# SPDX-License-Identifier: Apache-2.0
"""The cosine classifier: scores that do not depend on the length of features or weights.

Shape alphabet:
    C: channels of the features
    K: classes
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.losses import ClassLoss, check_cosine

# Features shorter than this are not scaled up to length 1: it bounds the gradient at zero.
EPS = 1e-6


class CosineLinear(nn.Module):
    r"""A linear classifier on the unit sphere, without bias.

    .. math::

        z_j = s \frac{w_j \cdot x}{\|w_j\| \, \|x\|}

    with a scale s, which is learned or fixed. The logits lie in [-s, s].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale: float = 20.0,
        *,
        learn_scale: bool = True,
    ) -> None:
        """Draw random directions of length 1.

        Args:
            in_features: C.
            out_features: K.
            scale: initial s, > 0.
            learn_scale: whether s is a parameter; otherwise it is a buffer of the same name.

        Raises:
            ValueError: ``scale`` is not positive.
        """
        super().__init__()
        if not scale > 0:
            raise ValueError(f"the scale of a cosine classifier must be > 0, got {scale}")
        self.in_features = in_features
        self.out_features = out_features
        # Random directions of length 1. The length has no part in the logits, but a shorter vector
        # would turn faster at the same learning rate.
        self.weight = nn.Parameter(F.normalize(torch.randn(out_features, in_features), dim=1))
        value = torch.tensor(float(scale))
        if learn_scale:
            self.scale = nn.Parameter(value)
        else:
            self.register_buffer("scale", value)

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) features to (..., K) logits; 0 for a feature that is zero."""
        # bfloat16 would round logits near 20 to steps of 0.125.
        with torch.autocast(features.device.type, enabled=False):
            directions = F.normalize(features.to(self.weight.dtype), dim=-1, eps=EPS)
            return self.scale * F.linear(directions, F.normalize(self.weight, dim=1, eps=EPS))

    def extra_repr(self) -> str:
        """The sizes that ``print`` shows, as for ``nn.Linear``."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def cosine_classifier(
    key: str, in_features: int, class_loss: ClassLoss, num_logits: int | None = None
) -> CosineLinear:
    """A new cosine classifier for a loss, with its scale where it fixes one.

    Args:
        key: of the config, that asks for it.
        in_features: C.
        class_loss: the loss.
        num_logits: outputs, by default D of the loss.

    Raises:
        ValueError: the loss cannot start with a cosine classifier.
    """
    check_cosine(key, class_loss)
    scale = class_loss.cosine_scale
    fixed = {} if scale is None else {"scale": scale, "learn_scale": False}
    return CosineLinear(in_features, num_logits or class_loss.num_logits, **fixed)
