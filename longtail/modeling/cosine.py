# SPDX-License-Identifier: Apache-2.0
"""The cosine classifier: scores that do not depend on the length of features or weights.

Shape alphabet:
    C: channels of the features
    K: classes
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Features shorter than this are not scaled up to length 1: it bounds the gradient at zero.
EPS = 1e-6


class CosineLinear(nn.Module):
    r"""A linear classifier on the unit sphere, without bias.

    .. math::

        z_j = s \frac{w_j \cdot x}{\|w_j\| \, \|x\|}

    with a learnable scale s. The logits lie in [-s, s].
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 20.0) -> None:
        """Draw random directions of length 1.

        Args:
            in_features: C.
            out_features: K.
            scale: initial s, > 0.

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
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) features to (..., K) logits; 0 for a feature that is zero."""
        # bfloat16 would round logits near 20 to steps of 0.125.
        with torch.autocast(features.device.type, enabled=False):
            directions = F.normalize(features.to(self.weight.dtype), dim=-1, eps=EPS)
            return self.scale * F.linear(directions, F.normalize(self.weight, dim=1, eps=EPS))

    def extra_repr(self) -> str:
        """The sizes that ``print`` shows, as for ``nn.Linear``."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
