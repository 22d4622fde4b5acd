"""The image classification configs: the rows of DisAlign's tables, their figures, ablations."""

from pathlib import Path

import pytest

from tests.config.test_configs import CONFIGS, ROOT, loaded
from tests.config.test_configs_lvis import assert_values, differences, flat
from tests.config.test_configs_sem_seg import config_of, name_of
from tools.config_index import read_header

# Folders and their names in the papers.
DATA = {
    "ImageNet-LT": "ImageNet-LT",
    "iNaturalist2018": "iNaturalist 2018",
    "Places-LT": "Places-LT",
}
PUBLISHED = [path for path in CONFIGS if path.relative_to(ROOT).parts[1] in DATA]
ABLATIONS = [path for path in PUBLISHED if path.parent.name == "ablations"]

# Average, many, medium and few, in percent. Two backbones side by side: ResNet and ResNeXt.
TABLE_10 = """
50   Baseline    41.6 64.0 33.8 5.8   44.4 65.9 37.5 7.7
50   Baseline*   48.4 68.4 41.7 15.2  49.2 68.9 42.8 15.6
50   DisAlign    51.3 59.9 49.9 31.8  52.6 61.5 50.7 33.1
50   DisAlign*   52.9 61.3 52.2 31.4  53.4 62.7 52.1 31.4
101  Baseline    44.2 66.6 36.8 7.1   44.8 66.2 37.8 8.6
101  Baseline*   49.5 69.3 43.1 15.9  50.0 69.9 43.7 15.9
101  DisAlign    52.7 61.7 51.1 32.4  53.6 63.3 51.2 34.6
101  DisAlign*   54.1 63.2 53.1 31.9  54.6 64.7 53.0 31.7
152  Baseline    44.9 66.9 37.7 7.7   47.8 69.1 41.4 10.4
152  Baseline*   50.2 70.1 43.9 16.1  50.5 70.0 44.4 16.5
152  DisAlign    53.7 62.8 51.9 34.2  54.5 64.5 52.0 34.7
152  DisAlign*   54.8 63.9 53.9 32.5  55.0 65.1 53.3 32.2
"""
# ResNet-50 and ResNeXt-50.
TABLE_1 = """
50  Baseline           41.6 64.0 33.8 5.8   44.4 65.9 37.5 7.7
50  Baseline*          48.4 68.4 41.7 15.2  49.2 68.9 42.8 15.6
50  NCM                44.3 53.1 42.3 26.5  47.3 56.6 45.3 28.1
50  tau-Norm           46.7 56.6 44.2 27.4  49.4 59.1 46.9 30.7
50  LogitAdjust(post)  50.4 - - -           - - - -
50  Deconfound*        - - - -              51.8 62.7 48.8 31.6
50  cRT                47.3 58.8 44.0 26.1  49.6 61.8 46.2 27.4
50  cRT*               - - - -              49.7 60.4 46.8 29.3
50  LWS                47.7 57.1 45.2 29.3  49.9 60.2 47.2 30.3
50  DisAlign           51.3 59.9 49.9 31.8  52.6 61.5 50.7 33.1
50  DisAlign*          52.9 61.3 52.2 31.4  53.4 62.7 52.1 31.4
"""
# 90 and 200 epochs side by side.
TABLE_13 = """
50   Baseline   61.7 72.2 63.0 57.2  65.8 75.7 66.9 61.7
50   Baseline*  64.8 75.8 66.6 59.7  66.2 77.3 68.3 60.7
50   DisAlign   67.8 64.1 68.5 67.9  70.6 69.0 71.1 70.2
50   DisAlign*  69.5 61.6 70.8 69.9  70.2 68.0 71.3 69.4
101  Baseline   64.6 75.9 66.0 59.9  67.3 75.5 68.9 63.2
101  Baseline*  66.4 76.8 68.5 61.1  68.0 78.9 69.7 63.0
101  DisAlign   70.0 68.3 70.4 69.9  72.9 73.0 73.5 72.1
101  DisAlign*  70.8 65.4 72.2 70.4  71.9 69.3 72.6 71.8
152  Baseline   65.0 75.2 66.3 60.7  69.0 78.2 70.6 64.7
152  Baseline*  67.3 77.8 69.4 61.8  69.0 78.5 71.0 64.0
152  DisAlign   71.3 70.7 71.8 70.8  74.1 74.9 74.4 73.5
152  DisAlign*  71.7 67.1 73.0 71.3  72.8 70.6 73.6 72.3
"""
# Averages: ResNet-50 with 90 and 200 epochs, ResNet-152 with 90 and 200.
TABLE_3 = """
LDAM       68.0 -     -    -
Baseline   61.7 65.8  65.0 69.0
Baseline*  64.8 66.2  67.3 69.0
cRT        65.2 68.2  68.5 71.2
tau-Norm   65.6 69.3  68.8 72.5
LWS        65.9 69.5  69.1 72.1
BBN        66.3 69.6  -    -
DisAlign   67.8 70.6  71.3 74.1
DisAlign*  69.5 70.2  71.7 72.8
"""
TABLE_14 = """
50   Baseline  29.2 45.3 25.5 8.0
50   DisAlign  37.8 39.3 40.7 28.5
101  Baseline  30.2 46.1 26.9 8.4
101  DisAlign  38.5 39.1 42.0 29.1
152  Baseline  30.2 45.7 27.3 8.2
152  DisAlign  39.3 40.4 42.4 30.1
"""
TABLE_4 = """
152  FocalLoss   34.6 41.1 34.8 22.4
152  RangeLoss   35.1 41.1 35.4 23.2
152  OLTR        35.9 44.7 37.0 25.3
152  FeatureAug  36.4 42.8 37.5 22.7
152  Baseline    30.2 45.7 27.3 8.2
152  NCM         36.4 40.4 37.1 27.3
152  cRT         36.7 42.0 37.6 24.9
152  LWS         37.6 40.6 39.1 28.6
152  tau-Norm    37.9 37.8 40.7 31.8
152  DisAlign    39.3 40.4 42.4 30.1
"""
# Tables 5, 12 (ResNet-50) and 11 (ResNeXt-50): config, its row, the tables' figures and the keys
# that differ from a config beside the folder.
MAGNITUDE, MARGIN = "MODEL.DISALIGN.MAGNITUDE", "MODEL.DISALIGN.MARGIN"
CONFIDENCE = "MODEL.DISALIGN.CONFIDENCE"
COMPONENTS = {
    "magnitude": ("5, 12", "magnitude alone", "50.1 60.4 48.0 28.8", {MARGIN}),
    "margin": ("5, 12", "margin alone", "49.9 63.9 46.9 21.2", {MAGNITUDE}),
    "magnitude_no_confidence": (
        *("12", "magnitude alone, without confidence", "49.9"),
        {MARGIN, CONFIDENCE},
    ),
    "margin_no_confidence": (
        *("12", "margin alone, without confidence", "49.6"),
        {MAGNITUDE, CONFIDENCE},
    ),
    "no_confidence": ("12", "without confidence", "51.0", {CONFIDENCE}),
}
BOUNDS = ("R_50_bound", "R_50_class_balanced_bound", "R_50_square_root_bound")
RHOS = (0.0, 0.4, 0.8, 1.0, 1.2, 1.6)

# Of other authors; docs/methods.md says why.
NOT_IMPLEMENTED = {
    "Deconfound*": "Deconfound",
    "BBN": "BBN",
    "RangeLoss": "Range loss",
    "OLTR": "OLTR",
    "FeatureAug": "Feature augmentation",
}
# What a method's name becomes in that of the config, and in its comment.
METHODS = {
    "Baseline": ("", "baseline"),
    "Baseline*": ("_cosine", "cosine baseline (*)"),
    "NCM": ("_ncm", "NCM"),
    "tau-Norm": ("_tau_norm", "tau-norm"),
    "LogitAdjust(post)": ("_logit_adjustment", "logit adjustment (post hoc)"),
    "cRT": ("_crt", "cRT"),
    "cRT*": ("_cosine_crt", "cosine cRT (*)"),
    "LWS": ("_lws", "LWS"),
    "DisAlign": ("_disalign", "DisAlign"),
    "DisAlign*": ("_cosine_disalign", "cosine DisAlign (*)"),
    "FocalLoss": ("_focal", "focal loss"),
    "LDAM": ("_ldam_drw", "LDAM"),
}


def cells(folder: str) -> list[tuple[int, str, str, str, list[str]]]:
    """Table, backbone, epochs (as in names), method and figures of everything in the tables."""
    found = []
    if folder == "ImageNet-LT":
        for number, table in ((1, TABLE_1), (10, TABLE_10)):
            for depth, method, *figures in map(str.split, table.strip().splitlines()):
                found.append((number, f"R_{depth}", "", method, figures[:4]))
                found.append((number, f"X_{depth}", "", method, figures[4:]))
        found += [(5, "R_50", "", method, []) for method in ("Baseline", "DisAlign")]
        found += [(11, "X_50", "", m, []) for m in ("Baseline*", "cRT*", "DisAlign*")]
        found += [(12, "R_50", "", method, []) for method in ("Baseline", "DisAlign")]
    elif folder == "iNaturalist2018":
        for depth, method, *figures in map(str.split, TABLE_13.strip().splitlines()):
            found.append((13, f"R_{depth}", "_90e", method, figures[:4]))
            found.append((13, f"R_{depth}", "_200e", method, figures[4:]))
        for method, *figures in map(str.split, TABLE_3.strip().splitlines()):
            columns = [(b, e) for b in ("R_50", "R_152") for e in ("_90e", "_200e")]
            for (backbone, epochs), figure in zip(columns, figures, strict=True):
                found.append((3, backbone, epochs, method, [figure]))
    else:
        for number, table in ((4, TABLE_4), (14, TABLE_14)):
            for depth, method, *figures in map(str.split, table.strip().splitlines()):
                found.append((number, f"R_{depth}", "", method, figures))
    return found


def rows_of_the_tables(folder: str) -> dict[str, tuple[str, str]]:
    """Row and figures by the config's path in ``configs``, without ablations."""
    tables: dict[str, set[int]] = {}
    figures: dict[str, list[str]] = {}
    text: dict[str, str] = {}
    for number, backbone, epochs, method, row in cells(folder):
        if method in NOT_IMPLEMENTED or row[:1] == ["-"]:
            continue
        ending, description = METHODS[method]
        name = f"{folder}/{backbone}{epochs}{ending}"
        row = [figure for figure in row if figure != "-"]
        known = figures.setdefault(name, row)
        # Tables agree; some have the average alone.
        assert all(a == b for a, b in zip(known, row, strict=False)), name
        figures[name] = max(known, row, key=len)
        tables.setdefault(name, set()).add(number)
        network = backbone.replace("R_", "ResNet-").replace("X_", "ResNeXt-")
        length = f", {epochs[1:-1]} epochs" if epochs else ""
        text[name] = f"{network}, {description}{length}, on {DATA[folder]}"
    return {name: (title(tables[name], text[name]), " / ".join(figures[name])) for name in tables}


def title(tables: set[int], text: str) -> str:
    numbers = ", ".join(map(str, sorted(tables)))
    return f"DisAlign, Table{'s' if len(tables) > 1 else ''} {numbers}: {text}"


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[1]


@pytest.mark.parametrize("folder", DATA)
def test_every_row_with_its_figures(folder):
    found = {}
    for path in PUBLISHED:
        ((row,), (figures,), _) = vars(read_header(path, ROOT / "configs")).values()
        if folder_of(path) == folder and "Figure" not in row and path not in ABLATIONS:
            found[name_of(path)] = (row, figures)
    assert found == rows_of_the_tables(folder)


def test_number_of_rows():
    """By table, what each adds: 10; 1; and 13; 3; and 14; 4."""
    count = {folder: len(rows_of_the_tables(folder)) for folder in DATA}
    assert count == {
        "ImageNet-LT": 6 * 4 + (5 + 5),
        "iNaturalist2018": 3 * 2 * 4 + (2 * 2 * 3 + 1),
        "Places-LT": 3 * 2 + 5,
    }


def test_methods_without_config_are_named():
    named = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    for method in NOT_IMPLEMENTED.values():
        assert f"| {method} |" in named


def test_rows_of_the_figures():
    """Figures 1, 2 and 5, whose numbers are not printed."""
    samplers = ("R_50_class_balanced", "R_50_square_root")
    expected = {f"ImageNet-LT/{stem}": "2" for stem in (*samplers, *BOUNDS)}
    expected["ImageNet-LT/R_50_bound"] = "s 1, 2"
    expected |= {f"ImageNet-LT/ablations/rho_{rho}": "5" for rho in RHOS}
    found = {}
    for path in PUBLISHED:
        header = read_header(path, ROOT / "configs")
        if "Figure" in header.rows[0]:
            found[name_of(path)] = header.rows[0].removeprefix("DisAlign, Figure").split(": ")[0]
            assert header.published == ("not published",)
    assert found == {name: f" {n}" if n[0] != "s" else n for name, n in expected.items()}


def test_ablations_of_the_components():
    base = loaded(config_of("ImageNet-LT/R_50_disalign"))
    for stem, (tables, text, figures, keys) in COMPONENTS.items():
        path = config_of(f"ImageNet-LT/ablations/{stem}")
        header = read_header(path, ROOT / "configs")
        row = title(set(map(int, tables.split(", "))), f"ResNet-50, DisAlign, {text}")
        assert header.rows == (f"{row}, on ImageNet-LT",)
        assert header.published == (figures.replace(" ", " / "),)
        assert differences(path, base) == {*keys, "OUTPUT_DIR"}
        assert not any(flat(loaded(path))[key] for key in keys)
    others = {"crt_generalized_reweight", *(f"rho_{rho}" for rho in RHOS)}
    assert {path.stem for path in ABLATIONS} == {*COMPONENTS, *others}


def test_ablation_of_the_reweighting():
    """Table 11: the classifier retrained, as in cRT, with DisAlign's weights."""
    path = config_of("ImageNet-LT/ablations/crt_generalized_reweight")
    assert read_header(path, ROOT / "configs").published == ("51.9",)
    exponent = "MODEL.CLASS_LOSS.REWEIGHT_EXPONENT"
    changed = {"MODEL.CLASSIFIER.LOSS", exponent, "DATALOADER.SAMPLER_TRAIN", "OUTPUT_DIR"}
    assert differences(path, loaded(config_of("ImageNet-LT/X_50_cosine_crt"))) == changed
    disalign = loaded(config_of("ImageNet-LT/X_50_cosine_disalign"))
    expected = {"MODEL.CLASSIFIER.LOSS": "reweighted_cross_entropy"}
    assert_values(loaded(path), expected | {exponent: disalign.MODEL.DISALIGN.RHO})


@pytest.mark.parametrize("rho", RHOS)
def test_ablation_of_rho(rho):
    path = config_of(f"ImageNet-LT/ablations/rho_{rho}")
    base = loaded(config_of("ImageNet-LT/R_50_disalign"))
    changed = {"MODEL.DISALIGN.RHO", "DATASETS.TEST", "OUTPUT_DIR"}
    assert differences(path, base) | {"MODEL.DISALIGN.RHO"} == changed
    expected = {"MODEL.DISALIGN.RHO": rho, "DATASETS.TEST": ("imagenet_lt_val",)}
    assert_values(loaded(path), expected)
