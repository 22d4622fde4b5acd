# SPDX-License-Identifier: Apache-2.0
"""Whether our losses and layers compute what mmdetection 3.3's own modules do.

    peers/bin/python -m benchmarks.mmdet_parity

The environment ``peers`` is that of mmseg_peers.py, with mmdetection:

    peers/bin/pip install --no-deps mmdet==3.3.0

method_parity.py compares the same losses with transcriptions, which anybody can run; here stands
the package itself, called as its box head does: the mean is over all RoIs, of the focal loss over
the objects; that theirs adds 1.2e-7 to their number is taken out. Three batches, one after the
other, so that what a module counts is compared, too; 7 and 1,203 classes, float64, also for the
numbers that the modules keep (in float32 in a training).
Figures are max |ours - theirs| / max |theirs|.
"""

import argparse
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import save_result
from benchmarks.mmseg_peers import NoOps
from benchmarks.parity import difference, differences, largest
from benchmarks.parity_losses import SIZES, batches, built, compare_loss
from longtail.losses import BOXES
from longtail.modeling.cosine import CosineLinear
from longtail.modeling.roi_heads.mask_head import NormedConv2d

# Theirs adds 1e-10 to sums of gradients, and 1e-6 to lengths, where ours takes 1e-6 as the least.
EXACT, GRADIENTS, LENGTHS = 1e-12, 1e-10, 1e-5
# Theirs adds it to the number that a sum is divided by: float32's distance of 1 from the next
# number, 5e-9 of a batch of 24.
ADDED = torch.finfo(torch.float32).eps
# The packages whose __init__ would import all of mmdetection, with mmcv's compiled operators.
EMPTY = ("mmdet.models", "mmdet.models.losses", "mmdet.models.layers")


class Row(NamedTuple):
    """What was compared, the largest differences of values and of gradients, and their bound."""

    ours: str
    theirs: str
    value: float
    gradient: float | None
    bound: float


def import_mmdet() -> types.SimpleNamespace:
    """Import the modules that are compared, and no more of mmdetection.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import mmdet
    except ImportError as error:
        raise ValueError(
            f"mmdetection cannot be imported ({error}): install it as the head of "
            f"benchmarks/{Path(__file__).name} says, and run this with its environment's python"
        ) from None
    sys.modules.setdefault("mmcv.ops", NoOps("mmcv.ops"))
    for name in EMPTY:
        package = types.ModuleType(name)
        package.__path__ = [str(Path(mmdet.__file__).parent.joinpath(*name.split(".")[1:]))]
        sys.modules.setdefault(name, package)
    from mmdet.models.layers import normed_predictor
    from mmdet.models.losses import eqlv2_loss, focal_loss, seesaw_loss

    return types.SimpleNamespace(
        version=mmdet.__version__,
        seesaw=seesaw_loss.SeesawLoss,
        eqlv2=eqlv2_loss.EQLV2Loss,
        focal=focal_loss.py_sigmoid_focal_loss,
        linear=normed_predictor.NormedLinear,
        conv=normed_predictor.NormedConv2d,
    )


def focal(function: Callable[..., Tensor], z: Tensor, y: Tensor) -> Tensor:
    """Their focal loss of (S, K + 1) logits, as a head with sigmoids calls it."""
    K = z.shape[1] - 1
    objects = max(1, int((y < K).sum()))
    return function(z[:, :K], F.one_hot(y, K + 1)[:, :K], avg_factor=objects - ADDED)


def compare_losses(mmdet: types.SimpleNamespace) -> Iterator[Row]:
    """The losses of boxes, and the scores that they stand for."""
    peers: dict[str, tuple[str, Callable[[int], nn.Module], float]] = {
        "seesaw": ("SeesawLoss", lambda K: mmdet.seesaw(num_classes=K, return_dict=False), EXACT),
        "eqlv2": ("EQLV2Loss", lambda K: mmdet.eqlv2(num_classes=K), GRADIENTS),
    }
    for name, (theirs, make, bound) in peers.items():
        losses, scores = [], []
        for K in SIZES:
            peer, own = make(K).double(), built(name, BOXES, K)

            def of_peer(z: Tensor, y: Tensor, late: bool, peer: nn.Module = peer) -> Tensor:
                return peer(z, y, avg_factor=len(y) - ADDED)

            losses += compare_loss(name, BOXES, K, of_peer)
            scores += [
                difference(own.probabilities(logits), peer.get_activation(logits))
                for logits, _ in batches(K, own.num_logits, BOXES)
            ]
        yield Row(f"loss {name}", theirs, *largest(losses), bound)
        yield Row(f"scores of {name}", f"{theirs}.get_activation", max(scores), None, EXACT)
    found = [
        pair
        for K in SIZES
        for pair in compare_loss("focal", BOXES, K, lambda z, y, late: focal(mmdet.focal, z, y))
    ]
    yield Row("loss focal", "py_sigmoid_focal_loss", *largest(found), EXACT)


def compare_layers(mmdet: types.SimpleNamespace) -> Iterator[Row]:
    """The normalised layers that Seesaw's authors classify and segment with."""
    pairs: list[tuple[nn.Module, nn.Module, tuple[int, ...], float]] = [
        (NormedConv2d(64, 7, 20.0), mmdet.conv(64, 7, 1, tempearture=20), (3, 64, 5, 4), EXACT),
        (
            CosineLinear(64, 7, 20.0, learn_scale=False),
            mmdet.linear(64, 7, bias=False, tempearture=20),
            (9, 64),
            LENGTHS,
        ),
    ]
    for own, theirs, shape, bound in pairs:
        own.double(), theirs.double()
        with torch.no_grad():
            for parameter in own.parameters():
                parameter.normal_(std=0.1)
        theirs.load_state_dict({**theirs.state_dict(), **dict(own.named_parameters())})
        features = torch.randn(shape, dtype=torch.float64)
        found = differences(own, theirs, features)
        yield Row(f"layer {type(own).__name__}", type(theirs).__name__, *found, bound)


def main() -> None:
    """Compare, print, save.

    Raises:
        ValueError: a difference is above its bound; nothing is saved then.
    """
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    mmdet = import_mmdet()
    torch.manual_seed(0)
    rows = [*compare_losses(mmdet), *compare_layers(mmdet)]
    print(tabulate([row._asdict() for row in rows], headers="keys", floatfmt=".1e"))
    wrong = [row for row in rows if max(row.value, row.gradient or 0.0) > row.bound]
    if wrong:
        raise ValueError(f"above their bounds: {', '.join(row.ours for row in wrong)}")
    save_result(
        "mmdet_parity",
        {
            "peer": f"mmdetection {mmdet.version}",
            "figure": "max |ours - theirs| / max |theirs|, the largest of all batches and sizes",
            "classes": list(SIZES),
            "comparisons": [row._asdict() for row in rows],
        },
    )


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
