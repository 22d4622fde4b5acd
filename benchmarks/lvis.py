# SPDX-License-Identifier: Apache-2.0
"""Every table of both papers on LVIS v0.5 and v1.0, beside your own runs.

python benchmarks/lvis.py                      # what is published, with configs
python benchmarks/lvis.py --runs output/mine   # beside the runs below a folder
"""

from paper_tables import main

if __name__ == "__main__":
    main(__doc__, "LVISv0.5", "LVISv1")
