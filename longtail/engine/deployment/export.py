# SPDX-License-Identifier: Apache-2.0
"""Writing a trained model for deployment, as a checkpoint or as TorchScript, and checking the file.

Shape alphabet:
    H, W: height and width of an image
    C: channels of the classifier's input feature
    K: classes
    R: RoIs of an image
    D: detections in an image
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any

import torch
from detectron2.modeling import GeneralizedRCNN, PanopticFPN, SemanticSegmentor
from torch import Tensor, nn

from longtail.engine.checkpoint import CompleteCheckpointer
from longtail.engine.weights_file import write_weights
from longtail.modeling.classification import ImageClassifier
from longtail.utils.detectron2 import traceable_roi_heads
from longtail.utils.errors import first_line
from longtail.utils.io import atomic_write

# Largest difference of the outputs, relative to the largest output. A folded classifier is rounded
# to float32, each of its numbers by 6e-8 of its size at most; but a logit may be a small sum of
# large terms. A graph runs the operators of the model; what they fuse to may round otherwise.
TOLERANCE = 1e-5


def check_kind(model: nn.Module) -> None:
    """Refuse a model of a kind that cannot be exported.

    Raises:
        ValueError: the model is neither an image classifier, nor a semantic segmentor, nor a
            detector with ROI heads.
    """
    known = (ImageClassifier, SemanticSegmentor, GeneralizedRCNN)
    if not isinstance(model, known) or isinstance(model, PanopticFPN):
        raise ValueError(
            f"a {type(model).__name__} cannot be exported: MODEL.META_ARCHITECTURE must be one of "
            f"{', '.join(kind.__name__ for kind in known)} or a second stage of them"
        )


def write_checkpoint(
    output: str,
    model: nn.Module,
    folded: nn.Module,
    baseline: nn.Module,
    size: int,
    notes: Mapping[str, Any] | None = None,
) -> float:
    """Write the tensors of a baseline, load the file into it, and compare it with the model.

    Args:
        output: the file; it is not there, or as it was, if an error is raised.
        model: what was trained, in evaluation mode.
        folded: the same, with what the baseline lacks folded into its classifier.
        baseline: another model, which has only tensors that ``folded`` has too.
        size: H = W of the random images on which they are compared.
        notes: what else the file says.

    Returns:
        The largest difference of the logits, relative to the largest logit.

    Raises:
        ValueError: it is larger than TOLERANCE.
    """
    state = folded.state_dict()
    with atomic_write(output, "wb") as file:
        tensors = {name: state[name].cpu() for name in baseline.state_dict()}
        write_weights(file, output, tensors, notes)
        file.flush()
        CompleteCheckpointer(baseline).load(file.name)
        baseline.eval()
        images = random_images([(size, size)] * 2, model.device)
        pairs = [(class_scores(model, image), class_scores(baseline, image)) for image in images]
        difference = max(relative_difference(*pair) for pair in pairs)
        _check(difference)
    return difference


def write_torchscript(output: str, model: nn.Module, size: int) -> tuple[float, bool]:
    """Trace a model, write the graph, load it, and compare it with the model.

    Args:
        output: the file; it is not there, or as it was, if an error is raised.
        model: what was trained, in evaluation mode.
        size: H = W of the random image that is traced.

    Returns:
        The largest difference of an output, relative to its largest value; and whether this was
        seen at another size too, for which the graph was not traced.

    Raises:
        ValueError: the model cannot be traced; it differs by more than TOLERANCE; or a detector
            finds nothing in random images, so that nothing would be compared.
    """
    adapter = ImageToTensors(model).eval()
    # Not square, and not a multiple of a stride.
    other = (3 * size // 4 + 5, 5 * size // 4 + 3)
    traced, *others = random_images([(size, size), (size, size), other], model.device)
    with atomic_write(output, "wb") as file:
        graph = _trace(adapter, traced, file)
        of_same_size, of_other_size = (_difference(adapter, graph, image) for image in others)
        _check(of_same_size)
    any_size = of_other_size <= TOLERANCE
    return max(of_same_size, of_other_size) if any_size else of_same_size, any_size


class ImageToTensors(nn.Module):
    """A model as a function of one image to tensors, in the form in which it can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a model, whose layers and mode stay as they are.

        Args:
            model: an image classifier, a semantic segmentor or a detector.
        """
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run the model on one image and unpack its outputs.

        Args:
            image: (3, H, W), of the size and channel order that the model is tested with.

        Returns:
            Of an image classifier (K,) scores; of a semantic segmentor (K, H, W) logits; of a
            detector (D, 4) boxes (x0, y0, x1, y1) in pixels of the image, (D,) scores, (D,)
            classes, and with masks (D, 1, 28, 28) probabilities on a grid over the box.
        """
        inputs = [{"image": image}]
        if not isinstance(self.model, GeneralizedRCNN):
            return tuple(self.model(inputs)[0].values())
        found = self.model.inference(inputs, do_postprocess=False)[0]
        masks = (found.pred_masks,) if found.has("pred_masks") else ()
        return (found.pred_boxes.tensor, found.scores, found.pred_classes, *masks)


@torch.no_grad()
def class_scores(model: nn.Module, image: Tensor) -> Tensor:
    """The logits of an image, in float64: (K,), (K, H, W), or of a detector (R, K + 1).

    In float32 two orders of the same sum differ by more than two classifiers may. A detector's are
    those of the RoIs of all stages: its detections are not a continuous function of them, two boxes
    may change places; and detectron2 proposes its RoIs in float32 alone.
    """
    inputs = [{"image": image}]
    if isinstance(model, ImageClassifier):
        model = copy.deepcopy(model).double()
        return model.class_logits(model.features(inputs))[0]
    if isinstance(model, SemanticSegmentor):
        return copy.deepcopy(model).double()(inputs)[0]["sem_seg"]
    predictors = model.roi_heads.box_predictor
    predictors = predictors if isinstance(predictors, nn.ModuleList) else [predictors]
    calls: list[tuple[nn.Module, Tensor]] = []
    with ExitStack() as stack:
        for predictor in predictors:
            hook = predictor.register_forward_pre_hook(lambda m, x: calls.append((m, x[0])))
            stack.callback(hook.remove)
        model.inference(inputs, do_postprocess=False)
    return torch.cat([copy.deepcopy(m).double()(x.double())[0] for m, x in calls])


def relative_difference(first: Tensor, second: Tensor) -> float:
    """Relative maximum ``max |a - b| / max |a|``; infinite for unlike shapes, NaN for NaN."""
    if first.shape != second.shape:
        return math.inf
    if not first.numel():
        return 0.0
    first, second = first.double(), second.double()
    return float((first - second).abs().max() / first.abs().max().clamp(min=1e-30))


def random_images(sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
    """Images (3, H, W) uint8 of these sizes, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8).to(device)
        for size in sizes
    ]


def _trace(adapter: ImageToTensors, image: Tensor, file: IO[bytes]) -> Callable:
    """Write the graph, and read it back."""
    try:
        with torch.no_grad(), warnings.catch_warnings(), traceable_roi_heads():
            # That sizes may become constants: whether they do is tried.
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(adapter, image, check_trace=False), file)
            file.flush()
            return torch.jit.load(file.name, map_location=image.device)
    # Which error it is, is up to the layer that cannot be traced.
    except Exception as error:
        raise ValueError(
            f"a {type(adapter.model).__name__} with this config cannot be traced: "
            f"{first_line(error)}"
        ) from error


@torch.no_grad()
def _difference(adapter: ImageToTensors, graph: Callable, image: Tensor) -> float:
    """Infinite where the model or the graph does not take the image."""
    try:
        expected, found = adapter(image), graph(image)
    except (RuntimeError, ValueError, AssertionError):
        return math.inf
    if not expected[0].numel():
        raise ValueError(
            "the detector finds nothing in random images, so that nothing can be compared: lower "
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
        )
    return max(relative_difference(*pair) for pair in zip(expected, found, strict=True))


def _check(difference: float) -> None:
    # Not "difference > TOLERANCE": that would let NaN pass.
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the exported model differs from the trained one by {difference:.2g} of the largest "
            f"output, allowed is {TOLERANCE:g}: nothing was written"
        )
