#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate every model of the project, from a checkout: the same as ``longtail train``.

python train_net.py --config-file configs/quickstart/deeplabv3plus_lite0_rr.yaml
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
torchrun --nproc_per_node 2 train_net.py --config-file ...
"""

import sys

from longtail.commands import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
