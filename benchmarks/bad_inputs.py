# SPDX-License-Identifier: Apache-2.0
"""Run every command on bad inputs; each has to end in one clear line that names what is bad.

    python benchmarks/bad_inputs.py [--only TEXT] [--again]

Every case is a command line with a bad config, option, data set, checkpoint or cache, in a folder
outside the checkout, and says what its line has to name. Most run in forks of a process that has
imported the library, some as programs of their own. Crafted files would leave a marker if code in
them ran. What was run before is not repeated: the results of single cases are kept in --output;
``--again`` repeats those that did not end in one clear line.
"""

import argparse
import collections
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from bad_input_commands import COMMAND_CASES
from bad_input_configs import CONFIG_CASES
from bad_input_data import DATA_CASES
from bad_input_files import FILE_CASES
from bad_input_stage import Case, Place, Stage
from common import ROOT, save_result

import longtail.commands
from longtail.data.datasets import register_all
from longtail.utils.io import write_json

CASES: list[Case] = [*CONFIG_CASES, *COMMAND_CASES, *DATA_CASES, *FILE_CASES]
MEMORY = 16 * 2**30
CLEAR = "one clear line"
# Codes of errors: of programs, of argparse, of a run that can be continued.
CODES = (1, 2, 143)


def in_fork(arguments: list[str], place: Place, limit: float) -> tuple[int | None, str]:
    """Run a command in a fork; its exit code (None if it hangs) and what it printed."""
    log = place.folder / "printed.txt"
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(place.folder)
        # An input that makes a process grow must not end the machine.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        code = 1
        try:
            register_all(str(place.datasets))
            longtail.commands.main(arguments)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None, log.read_text(errors="replace")


def in_program(arguments: list[str], place: Place, limit: float) -> tuple[int | None, str]:
    """The same in a program of its own."""
    environment = {**place.stage.environment, "DETECTRON2_DATASETS": str(place.datasets)}
    command = [sys.executable, "-m", "longtail", *arguments]
    if arguments[0].startswith("-"):
        command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command, env=environment, cwd=place.folder, capture_output=True, timeout=limit
        )
    except subprocess.TimeoutExpired as error:
        return None, (error.stderr or b"").decode(errors="replace")
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def verdict(case: Case, code: int | None, printed: str) -> tuple[str, str]:
    """How a case ended, and its line."""
    lines = [line for line in printed.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    errors = [line for line in lines if line.startswith("error: ") or ": error: " in line]
    if code is None:
        return "hung", last
    if code < 0:
        return f"killed by signal {-code}", last
    if "Traceback (most recent call last)" in printed:
        return "traceback", last
    if code == 0:
        return "accepted", last
    if code not in CODES or last not in errors or len(errors) > 1 or "(unexpected)" in last:
        return "unclear", last
    missing = [part for part in case.expect if part not in last]
    return (f"does not name {missing[0]}" if missing else CLEAR), last


def _without_paths(line: str, folder: Path) -> str:
    """A line without the folders of this machine."""
    for path in (str(folder.parent), f"{ROOT}/", tempfile.gettempdir()):
        line = line.replace(path, "")
    return line


def run(case: Case, stage: Stage, folder: Path, limit: float) -> dict:
    """Run a case."""
    name = "".join(c if c.isalnum() else "_" for c in case.name)[:80]
    place = Place(stage, folder / name)
    arguments = case.make(place)
    start = time.monotonic()
    code, printed = (in_program if case.program else in_fork)(arguments, place, limit)
    how, line = verdict(case, code, printed)
    row = {
        "how": how,
        "line": _without_paths(line, folder)[:600],
        "seconds": round(time.monotonic() - start, 1),
        "crafted": case.crafted,
        "program": case.program,
        "executed": place.marker.exists(),
    }
    if how == CLEAR:
        shutil.rmtree(place.folder)
    return row


def main() -> None:
    """Run the cases that are left, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/bad_inputs"))
    parser.add_argument("--only", default="", help="cases whose names have this")
    parser.add_argument("--again", action="store_true", help="repeat what was not one clear line")
    parser.add_argument("--limit", type=float, default=120, help="seconds of a case")
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    assert len({case.name for case in CASES}) == len(CASES), "two cases have the same name"
    folder = options.output.resolve()
    stage = Stage(folder / "good")
    for kind in ("pixels", "boxes", "images", "second"):
        stage.model(kind)
    stage.cache()
    # The threads of this process would not exist in its forks, which would wait for them.
    torch.set_num_threads(1)
    # A core dump for every killed case would fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.update(stage.environment)
    kept = folder / "cases.json"
    results = json.loads(kept.read_text()) if kept.is_file() else {}
    chosen = [case for case in CASES if options.only in case.name]
    for number, case in enumerate(chosen, start=1):
        old = results.get(case.name)
        if old and (old["how"] == CLEAR or not options.again):
            continue
        row = results[case.name] = run(case, stage, folder / "cases", options.limit)
        write_json(kept, results)
        print(f"{number}/{len(chosen)} {case.name}: {row['how']}", flush=True)
        if row["how"] != CLEAR:
            print(f"    {row['line']}", flush=True)
    report(results, save=not options.no_save and not options.only)


def report(results: dict[str, dict], *, save: bool) -> None:
    """Print and write how the cases ended."""
    rows = {case.name: results[case.name] for case in CASES if case.name in results}
    counts = collections.Counter(row["how"].split(" name ")[0] for row in rows.values())
    crafted = [row for row in rows.values() if row["crafted"]]
    figures = {
        "cases": len(rows),
        "as programs of their own": sum(row["program"] for row in rows.values()),
        **counts,
        "crafted files": len(crafted),
        "crafted files that were executed": sum(row["executed"] for row in crafted),
        "not one clear line": {
            name: f"{row['how']}: {row['line']}"
            for name, row in rows.items()
            if row["how"] != CLEAR
        },
        "lines": {name: row["line"] for name, row in rows.items() if row["how"] == CLEAR},
    }
    print({key: value for key, value in figures.items() if not isinstance(value, dict)})
    if save:
        save_result("bad_inputs", figures)


if __name__ == "__main__":
    main()
