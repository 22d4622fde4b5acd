# SPDX-License-Identifier: Apache-2.0
"""Every table of both papers on iNaturalist 2018, beside your own runs.

python benchmarks/inaturalist.py                      # what is published, with configs
python benchmarks/inaturalist.py --runs output/mine   # beside the runs below a folder
"""

from paper_tables import main

if __name__ == "__main__":
    main(__doc__, "iNaturalist2018")
