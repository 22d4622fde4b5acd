"""HRNet as in semantic segmentation: the branches themselves, fused bilinearly."""

from timm.models.hrnet import HighResolutionNetFeatures
from torch import nn

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


def adapt_hrnet(model: HighResolutionNetFeatures, indices: list[int]) -> None:
    """Fuse bilinearly and drop what only feeds levels that are not returned, in place.

    Args:
        model: built with ``HRNET_OPTIONS``.
        indices: of the levels that it returns; 0 is the stem, 1 .. 4 the branches.
    """
    for module in model.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
    # Parameters without a gradient would stop distributed training.
    last = model.stage4[-1]
    for branch in range(len(last.fuse_layers)):
        if branch + 1 not in indices:
            last.fuse_layers[branch] = nn.ModuleList([nn.Identity()])
