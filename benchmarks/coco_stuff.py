# SPDX-License-Identifier: Apache-2.0
"""Every table of both papers on COCO-Stuff, beside your own runs.

python benchmarks/coco_stuff.py                      # what is published, with configs
python benchmarks/coco_stuff.py --runs output/mine   # beside the runs below a folder
"""

from paper_tables import main

if __name__ == "__main__":
    main(__doc__, "COCO-Stuff164K", "COCO-Stuff10K")
