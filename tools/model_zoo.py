# SPDX-License-Identifier: Apache-2.0
"""Put trained models into the package (longtail/model_zoo), and test those that are there.

    python tools/model_zoo.py check
    python tools/model_zoo.py pack output/quickstart/runs digits-LT/linear ...

``pack`` takes RUNS/NAME/seed0, tests the run and what it wrote into the package, and prints both.
``check`` tests every model on newly made data of seed 0 and compares the metrics with the table.
Weights are float16: they are read as float32, and the models run in that.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from longtail.analysis.metric_names import Metrics, table_metrics
from longtail.data.prepare.digits_lt import prepare_digits_lt
from longtail.data.synthetic import write_digit_scenes
from longtail.engine.checkpoint import CLASS_NAMES
from longtail.engine.inference.trained import load_trained, trained_config
from longtail.engine.weights_file import write_weights
from longtail.utils.cores import available_cores
from longtail.utils.downloads import file_sha256
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import atomic_write, write_json
from longtail.utils.model_zoo import PREFIX, TABLE, ZOO, zoo_models

# Of the table; a processor may round another pixel to another class.
METRICS = ("mIoU", "mAcc", "mAcc tail", "average", "many", "medium", "few")
TOLERANCE = 0.1


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("check", help="test all models of the package")
    packing = actions.add_parser("pack", help="put trained models into the package")
    packing.add_argument("runs", type=Path, metavar="RUNS", help="folder of NAME/seed0")
    packing.add_argument("names", nargs="+", metavar="NAME", help="of the config, without ending")
    return parser.parse_args()


def make_data(folder: Path) -> None:
    """Make what the models are tested on."""
    prepare_digits_lt(str(folder))
    write_digit_scenes(folder / "digit_scenes", num_workers=available_cores())


def test(name: str, weights: str, folder: Path) -> Metrics:
    """Evaluate weights of a packaged config as a user does.

    Args:
        name: of the config, without ending.
        weights: file or address.
        folder: with the data sets.

    Returns:
        The metrics of the table, in percent.
    """
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = [sys.executable, "-m", "longtail", "train", "--config-file", f"{name}.yaml"]
        options = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", output]
        subprocess.run(
            [*command, "--eval-only", *options],
            env={**os.environ, "DETECTRON2_DATASETS": str(folder)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (report,) = Path(output).glob("inference/*/*_evaluation.json")
        task = report.name.removesuffix("_evaluation.json")
        metrics, _ = table_metrics(task, json.loads(report.read_text(encoding="utf-8")))
    return {key: metrics[key] for key in METRICS if key in metrics}


def pack(runs: Path, name: str, data: Path) -> None:
    """Write a run's weights into the package, and their metrics into its table."""
    run = runs / name / "seed0"
    trained = load_trained(trained_config(run))
    tensors = {
        key: value.half() if value.is_floating_point() else value
        for key, value in trained.model.state_dict().items()
    }
    file = ZOO / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file, "wb") as stream:
        write_weights(stream, file.name, tensors, {CLASS_NAMES: trained.class_names})
    models = zoo_models() if (ZOO / TABLE).is_file() else {}
    models[name] = {
        "sha256": file_sha256(file),
        "bytes": file.stat().st_size,
        "seed": trained.cfg.SEED,
        "tested_on": trained.cfg.DATASETS.TEST[0],
        "metrics": test(name, str(file), data),
    }
    write_json(ZOO / TABLE, dict(sorted(models.items())))
    print(f"{name}: {models[name]['bytes'] / 1e6:.2f} MB, {shown(models[name]['metrics'])}")
    print(f"  the run itself: {shown(test(name, str(run / 'model_final.pth'), data))}")


def check(data: Path) -> None:
    """Test all models.

    Raises:
        ValueError: a metric is not that of the table.
    """
    for name, model in zoo_models().items():
        found, expected = test(name, f"{PREFIX}{name}", data), model["metrics"]
        print(f"{name}: {shown(found)}", flush=True)
        if any(abs(found[key] - value) > TOLERANCE for key, value in expected.items()):
            raise ValueError(f"{name}: the table has {shown(expected)}")


def shown(metrics: Metrics) -> str:
    """Metrics in one line."""
    return ", ".join(f"{key} {value:.2f}" for key, value in metrics.items())


def main() -> None:
    """Run the command line."""
    arguments = parse_arguments()
    with ending_in_one_line(), tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        make_data(data)
        if arguments.action == "check":
            check(data)
        for name in getattr(arguments, "names", ()):
            pack(arguments.runs, name, data)


if __name__ == "__main__":
    main()
