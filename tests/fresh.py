# SPDX-License-Identifier: Apache-2.0
"""Programs that each run in an interpreter in which no module of this project was imported."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Forks of one interpreter: what takes long to import, and is of others, is there already.
RUNNER = """
import gc, json, os, sys, traceback
import cv2, jinja2, matplotlib.pyplot, PIL.Image, pycocotools.cocoeval, scipy.io, scipy.sparse
import fvcore.common.checkpoint, fvcore.nn, fvcore.transforms.transform, iopath.common.file_io
import omegaconf, scipy.stats, tabulate, timm, torch, torchvision, tqdm
import yacs.config

# A collection would look at, and so copy, all of that in every fork.
gc.disable()
programs = json.load(sys.stdin)
assert not [name for name in sys.modules if name.split(".")[0] in ("longtail", "detectron2")]
results = {}
for name, program in programs.items():
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            exec(program, {})
            message = ""
        except BaseException:
            message = traceback.format_exc()
        os.write(writer, message.encode()[-4000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        results[name] = file.read()
    os.wait()
print("\\n" + json.dumps(results))
"""


def run_each(programs: dict[str, str]) -> dict[str, str]:
    """Run Python programs, each in a fresh interpreter; gives the traceback of those that fail."""
    run = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout.splitlines()[-1])
    assert results.keys() == programs.keys()
    return {name: message for name, message in results.items() if message}
