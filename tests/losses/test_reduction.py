# SPDX-License-Identifier: Apache-2.0
"""What losses divide by, in one process; in two see test_distributed."""

import torch

from longtail.losses.reduction import mean_over_processes


def test_mean_over_one_process_is_the_count_but_never_zero():
    count = torch.tensor(6.0)
    assert mean_over_processes(count) == 6
    assert mean_over_processes(torch.tensor(0.0)) == 1
    assert mean_over_processes(torch.tensor(0.25)) == 0.25
    assert count == 6
