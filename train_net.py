#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate every model of the project, from a checkout: the same as ``longtail train``.

python train_net.py --config-file configs/quickstart/deeplabv3plus_lite0_rr.yaml
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
torchrun --nproc_per_node 2 train_net.py --config-file ...
"""

from longtail.commands import require_detectron2

if __name__ == "__main__":
    require_detectron2()
    from longtail.commands.train import main

    main(prog="train_net.py")
