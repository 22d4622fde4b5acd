# SPDX-License-Identifier: Apache-2.0
r"""Convert weights of mmsegmentation, torchvision or timm for a model of ours, or ours back.

    longtail convert-weights pspnet_r50-d8_ade20k.pth weights/pspnet.pth \
        --config-file ADE20K/pspnet_R_50c_160k.yaml
    longtail convert-weights output/model_final.pth for_mmseg.pth --to-mmseg
    longtail convert-weights resnet50_v1c.pth weights/resnet50c_imagenet.pth

The config names the model that MODEL.WEIGHTS may then load the result into. Whose names the input
has is seen from them: a whole model of mmsegmentation, or a backbone alone, as mmsegmentation and
its relatives, timm, torchvision and Swin's authors name theirs. Without a config it is a
ResNet-50 or -101 v1c alone. Every tensor has to find its place, but for an ImageNet classifier. A
checkpoint under our own names that holds more than tensors and plain values is written without the
rest.
"""

import argparse
from collections.abc import Sequence

from longtail.utils.command_line import add_import_argument, command_parser
from longtail.utils.errors import ending_in_one_line


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("convert-weights", __doc__)
    parser.add_argument("input", metavar="INPUT", help="checkpoint to convert")
    parser.add_argument("output", metavar="OUTPUT", help="checkpoint to write")
    parser.add_argument("--config-file", metavar="FILE", default="", help="config of our model")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--to-mmseg", action="store_true", help="from our names to its")
    choice.add_argument(
        "--without-classifier",
        action="store_true",
        help="leave out classifiers of another number of classes",
    )
    add_import_argument(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="replaced config values")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_intermixed_args(arguments)
    with ending_in_one_line():
        from longtail.engine.deployment.conversion import convert_file

        print(convert_file(options))
