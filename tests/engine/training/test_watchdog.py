# SPDX-License-Identifier: Apache-2.0
"""A process that hangs ends the run, and is named."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from longtail.engine.training.watchdog import Report, hang_message

STEP, READ = "run_step (step.py:9)", "read_image (images.py:3)"


@pytest.mark.parametrize(
    ("reports", "named", "not_named"),
    [
        # One is behind: the others wait in the exchange of the next iteration.
        (
            {0: Report("a", 8, STEP), 1: Report("a", 7, STEP), 2: Report("b", 8, STEP)},
            ("iteration 7", "600 s", "process 1 on a is in run_step"),
            ("process 0", "process 2"),
        ),
        # All are in one iteration; one is elsewhere.
        (
            {0: Report("a", 7, STEP), 1: Report("a", 7, STEP), 2: Report("b", 7, READ)},
            ("iteration 7", f"process 2 on b is in {READ}"),
            ("process 0", "process 1"),
        ),
        # Of two nobody knows which: both are named.
        (
            {0: Report("a", 7, STEP), 1: Report("b", 7, READ)},
            (f"process 0 on a is in {STEP}", f"process 1 on b is in {READ}"),
            (),
        ),
        # A process that was stopped, or its machine.
        (
            {0: Report("a", 7, STEP), 2: Report("b", 7, READ)},
            ("process 1 does not answer",),
            ("process 0", "process 2"),
        ),
    ],
)
def test_who_hangs(reports, named, not_named):
    message = hang_message(reports, max(3, len(reports)) if 2 in reports else 2, 600)
    assert all(text in message for text in named), message
    assert not any(text in message for text in not_named), message
    assert "SOLVER.HANG_MINUTES" in message and "--resume" in message


# Two processes train; the second one goes to sleep, or is stopped, in iteration 2.
HANGING = """
import os, signal, sys, time
from pathlib import Path
from detectron2.engine.train_loop import HookBase
from longtail.engine.launch import launch_training
from longtail.engine import Trainer
from tests.tiny import register_stripes, tiny_config

class Hang(HookBase):
    def before_step(self):
        if self.trainer.iter == 2 and os.environ["RANK"] == "1":
            Path(sys.argv[1], "pid").write_text(str(os.getpid()))
            if sys.argv[2] == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            self.sleep_in_a_hook()

    def sleep_in_a_hook(self):
        time.sleep(1000)

def main(args):
    folder = Path(sys.argv[1], os.environ["RANK"])
    folder.mkdir()
    name = register_stripes("stripes", folder, 4)
    keys = ["DATASETS.TRAIN", (name,), "SOLVER.HANG_MINUTES", 0.05, "OUTPUT_DIR", sys.argv[1]]
    trainer = Trainer(tiny_config(folder, keys))
    trainer.register_hooks([Hang()])
    trainer.train()

launch_training(main, None)
"""


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("sleep", "process 1 on .* sleep_in_a_hook"),
        pytest.param("stop", "process 1 does not answer", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_hangs_ends_the_run(tmp_path, how, named):
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(script), str(tmp_path), how]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    lines = [line for line in process.stderr if "HANG_MINUTES" in line]
    assert process.wait(timeout=60) == 1
    assert len(lines) == 1
    assert re.search(f"error: iteration 2 .*3 s.*{named}", lines[0]), lines
