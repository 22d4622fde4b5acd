# SPDX-License-Identifier: Apache-2.0
"""What LWS (learnable weight scaling, Kang et al. 2020) trains, on any task.

Shape alphabet:
    D: logits, of which the first K may be scaled alone
    K: classes
"""

import torch
from torch import Tensor, nn


class ClassScaling(nn.Module):
    """One factor for each of the first logits, 1 at the start; later ones stay as they are."""

    def __init__(self, num_logits: int) -> None:
        """Start with factors of 1.

        Args:
            num_logits: K, how many logits have a factor.
        """
        super().__init__()
        self.factor = nn.Parameter(torch.ones(num_logits))

    def forward(self, logits: Tensor, dim: int = 1) -> Tensor:
        """(N, D, ...) to (N, D, ...), D >= K, of which the first K along ``dim`` are scaled."""
        shape = [1] * logits.ndim
        shape[dim] = -1
        factor = self.factor.view(shape)
        if len(self.factor) == logits.shape[dim]:
            return logits * factor
        first, rest = logits.split([len(self.factor), logits.shape[dim] - len(self.factor)], dim)
        return torch.cat([first * factor, rest.to(first)], dim)
