# SPDX-License-Identifier: Apache-2.0
"""HRNet as in semantic segmentation: the branches themselves, fused bilinearly at any size."""

import torch
from timm.models.hrnet import HighResolutionModule, HighResolutionNetFeatures
from torch import Tensor, nn
from torch.nn import functional as F

# For timm.create_model: without the convolutions that widen the branches for classification.
HRNET_OPTIONS = {"feature_location": ""}

# The stem and the stages after each of which one more branch begins. All branches leave the last
# stage together, so that a level is not the output of one module; freezing goes by these.
LAST_MODULES = {
    "res1": "act2",
    "res2": "transition1",
    "res3": "transition2",
    "res4": "transition3",
    "res5": "stage4",
}


class AnySizeExchange(HighResolutionModule):
    """Branches exchange their maps at any size.

    Halving rounds up: at 45 pixels the branches have 12, 6, 3 and 2 rows, and those of the last,
    enlarged by 8, are 16. A map that is enlarged by its factor is then resized to the branch's
    size, as in mmsegmentation; timm adds maps of equal sizes alone.
    """

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """The branches' (N, C, H, W) maps, fine to coarse, to as many; or to the first ones."""
        x = [branch(part) for branch, part in zip(self.branches, x, strict=True)]
        if self.num_branches == 1:
            return x
        return [self.fuse_act(self._sum(x, to)) for to in range(len(self.fuse_layers))]

    def _sum(self, x: list[Tensor], to: int) -> Tensor:
        """All maps at the resolution of branch ``to``, added; of a branch left out the first."""
        parts = [layer(part) for layer, part in zip(self.fuse_layers[to], x, strict=False)]
        coarser = [_resized(part, x[to].shape[2:]) for part in parts[to + 1 :]]
        return sum([*parts[1 : to + 1], *coarser], start=parts[0])


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    # Of its own size it stays as it is; a traced graph is to do the same at every size.
    if x.shape[2:] == size and not torch.jit.is_tracing():
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def adapt_hrnet(model: HighResolutionNetFeatures, indices: list[int]) -> None:
    """Fuse bilinearly and drop what only feeds levels that are not returned, in place.

    Args:
        model: built with ``HRNET_OPTIONS``.
        indices: of the levels that it returns; 0 is the stem, 1 .. 4 the branches.
    """
    for module in model.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
        if isinstance(module, HighResolutionModule):
            # timm offers no way to name the class; the new one has the same tensors.
            module.__class__ = AnySizeExchange
    # Parameters without a gradient would stop distributed training.
    last = model.stage4[-1]
    for branch in range(len(last.fuse_layers)):
        if branch + 1 not in indices:
            last.fuse_layers[branch] = nn.ModuleList([nn.Identity()])
