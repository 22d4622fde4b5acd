"""tools/config_index.py: what configs say about themselves, and the index made of it."""

import json
import re
from pathlib import Path

import pytest

from tools import config_index
from tools.config_index import CONFIGS, Header, config_files, read_header

COMMAND = "#   python train_net.py --config-file configs/Data/model.yaml --num-gpus 8"
ROW = "# Region Rebalance, Table 3: OCRNet, HRNet-W18, baseline."
EXPECTED = "# Expected mIoU: 39.32 (s.s.), 40.80 (m.s., with TEST.AUG.ENABLED True)."


@pytest.fixture
def write(tmp_path):
    """Write a config with the given comment; its path."""

    def write(*lines: str, name: str = "Data/model.yaml") -> Path:
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, "VERSION: 2", "# Expected nothing"]), encoding="utf-8")
        return path

    return write


VALID = {
    "semantic segmentation": (
        (ROW, EXPECTED, COMMAND),
        Header(("Region Rebalance, Table 3: OCRNet, HRNet-W18, baseline",), ("39.32 / 40.80",), ""),
    ),
    "single scale": (
        (
            "# Region Rebalance, Table 6: DeepLabv3+, Dice loss.",
            "# Expected mIoU: 1.14 (s.s.).",
            COMMAND,
        ),
        Header(("Region Rebalance, Table 6: DeepLabv3+, Dice loss",), ("1.14",), ""),
    ),
    "two papers": (
        (
            ROW,
            EXPECTED,
            "# DisAlign, Tables 6, 15: OCRNet.",
            "# Expected mIoU: 39.3 (s.s.).",
            "# Its head / body / tail: 1.0 / 2.0 / 3.0 (s.s.).",
            "# Measured mIoU: 39.5 ± 0.2 (benchmarks/results/ocr.json).",
            COMMAND,
        ),
        Header(
            (
                "Region Rebalance, Table 3: OCRNet, HRNet-W18, baseline",
                "DisAlign, Tables 6, 15: OCRNet",
            ),
            ("39.32 / 40.80", "39.3"),
            "39.5 ± 0.2 (benchmarks/results/ocr.json)",
        ),
    ),
    "detection": (
        (
            "# DisAlign, Table 8, COCO: Mask R-CNN, on LVIS v0.5.",
            "# Stage 2, after model.yaml.",
            "# Expected AP: box 20.8, mask 21.2. Table 8 prints mask 21.3.",
            COMMAND,
        ),
        Header(("DisAlign, Table 8, COCO: Mask R-CNN, on LVIS v0.5",), ("20.8 / 21.2",), ""),
    ),
    "image classification": (
        (
            "# DisAlign, Tables 1, 10: ResNet-50, baseline, on ImageNet-LT.",
            "# Expected accuracy: 41.6, many 64.0, medium 33.8, few 5.8.",
            "# Measured accuracy: 41.5 ± 0.2, many 64.1, medium 33.0, few 5.0 (make bench).",
            COMMAND,
        ),
        Header(
            ("DisAlign, Tables 1, 10: ResNet-50, baseline, on ImageNet-LT",),
            ("41.6 / 64.0 / 33.8 / 5.8",),
            "41.5 ± 0.2 / 64.1 / 33.0 / 5.0 (make bench)",
        ),
    ),
    "evaluation alone, of which the paper has the average": (
        (
            "# DisAlign, Table 1: ResNet-50, logit adjustment, on ImageNet-LT.",
            "# Expected accuracy: 50.4.",
            COMMAND.replace(" --num", " --eval-only --num"),
        ),
        Header(("DisAlign, Table 1: ResNet-50, logit adjustment, on ImageNet-LT",), ("50.4",), ""),
    ),
    "a figure, accuracy not published": (
        (
            "# DisAlign, Figures 1, 2: ResNet-50, empirical bound.",
            "# Expected accuracy: not published.",
            "# Measured accuracy: not yet.",
            COMMAND,
        ),
        Header(("DisAlign, Figures 1, 2: ResNet-50, empirical bound",), ("not published",), ""),
    ),
    "no figure in the paper": (
        ("# In none of DisAlign's tables: Mask R-CNN.", "# Expected AP: not published.", COMMAND),
        Header(("In none of DisAlign's tables: Mask R-CNN",), ("not published",), ""),
    ),
    "in neither paper": (
        (
            "# Small. In neither paper.",
            "# Measured AP: box 1.5, mask 1.0 ± 0.1 (make demo).",
            COMMAND.removesuffix(" --num-gpus 8"),
        ),
        Header((), (), "1.5 / 1.0 ± 0.1 (make demo)"),
    ),
    "not measured yet": (
        ("# In neither paper.", "# Measured mIoU: not yet.", COMMAND),
        Header((), (), ""),
    ),
}


@pytest.mark.parametrize(("comment", "expected"), VALID.values(), ids=VALID)
def test_reads_the_comment(write, comment, expected):
    path = write(*comment)
    assert read_header(path, path.parents[2]) == expected


INVALID = {
    "no comment": ((), "names no row"),
    "neither row nor 'In neither paper'": (("# A model.", COMMAND), "names no row"),
    "a row of no table": (
        ("# Region Rebalance: OCRNet.", COMMAND),
        "names no row",
    ),
    "an unknown table": (("# DisAlign, table 3: OCRNet.", COMMAND), "unknown form"),
    "a figure that is none": (
        (ROW, "# Expected mIoU: 39,32 (s.s.).", COMMAND),
        "unknown form .*39,32",
    ),
    "an accuracy without one of its groups": (
        (ROW, "# Expected accuracy: 41.6, many 64.0, few 5.8.", COMMAND),
        "unknown form",
    ),
    "a measurement without source": (
        ("# In neither paper.", "# Measured mIoU: 3.5.", COMMAND),
        "unknown form",
    ),
    "a row without figures": ((ROW, COMMAND), "no line 'Expected ...' after its row 'Region"),
    "a first row without figures": ((ROW, ROW, EXPECTED, COMMAND), "a row without figures"),
    "figures without a row": (("# In neither paper.", EXPECTED, COMMAND), "without a row"),
    "no command": ((ROW, EXPECTED), "lacks the command"),
    "the command of another config": (
        (ROW, EXPECTED, COMMAND.replace("model.yaml", "model_rr.yaml")),
        "lacks the command 'python train_net.py --config-file configs/Data/model.yaml'",
    ),
}


@pytest.mark.parametrize(("comment", "message"), INVALID.values(), ids=INVALID)
def test_says_what_is_wrong_with_a_comment(write, comment, message):
    folder = write(*comment).parents[2]
    with pytest.raises(SystemExit, match=message) as caught:
        config_index.main(["--configs", str(folder)])
    line = str(caught.value)
    assert line.startswith("error: configs/Data/model.yaml: ") and "\n" not in line
    assert not (folder / "README.md").exists()


def test_one_table_a_folder(write):
    neither = "# In neither paper."
    for name in ("B/x_rr", "B/x", "A/parts/y", "B/z"):
        write(neither, COMMAND.replace("Data/model", name), name=f"{name}.yaml")
    for name in ("B/Base-B", "models/fcn"):
        write("# No row.", name=f"{name}.yaml")
    folder = write("# At the top.", name="Base-All.yaml").parent
    text = config_index.index(folder)
    entries = re.findall(r"^## (.+)|^\| \[`.+?`\]\((.+?)\) \|", text, re.MULTILINE)
    assert ["".join(entry) for entry in entries] == [
        *("A/parts", "A/parts/y.yaml"),
        *("B", "B/x.yaml", "B/x_rr.yaml", "B/z.yaml"),
    ]


def test_a_row_of_the_table(write):
    path = write(ROW.replace("OCRNet", "OCRNet*"), EXPECTED, COMMAND)
    assert config_index.index(path.parents[2]).endswith(
        "| [`model`](Data/model.yaml) | Region Rebalance, Table 3: OCRNet\\*, HRNet-W18, baseline "
        "| 39.32 / 40.80 |  |\n"
    )


def test_check_says_whether_the_index_is_up_to_date(write):
    path = write(ROW, EXPECTED, COMMAND)
    command = ["--configs", str(path.parents[2])]
    with pytest.raises(SystemExit, match="error: .*README.md is out of date: run python tools"):
        config_index.main([*command, "--check"])
    config_index.main(command)
    config_index.main([*command, "--check"])
    written = (path.parents[2] / "README.md").read_text(encoding="utf-8")
    write(ROW, EXPECTED.replace("39.32", "39.33"), COMMAND)
    with pytest.raises(SystemExit, match="out of date"):
        config_index.main([*command, "--check"])
    assert (path.parents[2] / "README.md").read_text(encoding="utf-8") == written


def test_a_folder_without_configs(tmp_path):
    with pytest.raises(SystemExit, match="error: there are no configs"):
        config_index.main(["--configs", str(tmp_path)])


def test_the_index_of_this_repository():
    config_index.main(["--check"])


ACCURACIES = ("average", "many", "medium", "few")


def results_of(file: Path) -> dict[str, dict[str, str]]:
    """Of a file in benchmarks/results: "mean ± deviation" of each metric, by config."""
    found: dict[str, dict[str, str]] = {}

    def walk(node: object) -> None:
        if not isinstance(node, dict):
            return
        statistics = next((v for k, v in node.items() if k.startswith("mean and standard")), None)
        if "configs" in node and statistics is not None:
            configs = node["configs"]
            if isinstance(configs, str):
                # A folder, whose configs are named as the methods.
                methods = next(iter(statistics.values()))
                configs = {m: f"{configs}/{m}.yaml" for m in methods if " - " not in m}
            for method, config in configs.items():
                for metric, value in statistics.items():
                    mean, deviation = value[method]
                    text = "" if mean is None else f"{mean:.1f}"
                    text += f" ± {deviation:.1f}" if deviation is not None else ""
                    found.setdefault(config, {})[metric] = text
        for child in node.values():
            walk(child)

    walk(json.loads(file.read_text(encoding="utf-8")))
    return found


def test_measured_figures_are_those_of_the_named_file():
    root = CONFIGS.parent
    compared = 0
    for path in config_files(CONFIGS):
        figures, _, source = read_header(path, CONFIGS).measured.rstrip(")").partition(" (")
        if not source.startswith("benchmarks/results/"):
            continue
        results = results_of(root / source)[path.relative_to(root).as_posix()]
        number = figures.count(" / ") + 1
        metrics = {1: ("mIoU",), 2: ("box AP", "mask AP"), 4: ACCURACIES}[number]
        for figure, metric in zip(figures.split(" / "), metrics, strict=True):
            # The deviation may be left out.
            assert results[metric].startswith(figure), (path, metric)
            compared += 1
    assert compared
