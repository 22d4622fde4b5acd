# SPDX-License-Identifier: Apache-2.0
"""Every table of both papers on ADE20K, beside your own runs.

python benchmarks/ade20k.py                      # what is published, with configs
python benchmarks/ade20k.py --runs output/mine   # beside the runs below a folder
"""

from paper_tables import main

if __name__ == "__main__":
    main(__doc__, "ADE20K")
