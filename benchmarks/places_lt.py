# SPDX-License-Identifier: Apache-2.0
"""Every table of both papers on Places-LT, beside your own runs.

python benchmarks/places_lt.py                      # what is published, with configs
python benchmarks/places_lt.py --runs output/mine   # beside the runs below a folder
"""

from paper_tables import main

if __name__ == "__main__":
    main(__doc__, "Places-LT")
