# SPDX-License-Identifier: Apache-2.0
"""The page about runs: what stands in it, and that nothing in it comes from elsewhere."""

import re

import pytest
import yaml

from longtail.analysis import published_rows, report_tables
from longtail.analysis.methods import find_methods
from longtail.analysis.published_rows import published
from longtail.analysis.report import write_report
from longtail.analysis.runs import read_run
from longtail.config import load_config
from longtail.config.tables import read_leaves, read_tables, rows_of
from tests.analysis.pages import NAMES, Page, write_hostile_runs
from tests.finished_runs import head, provenance, write_run
from tests.finished_runs import write_report as write_evaluation
from tests.messages import raises_naming


def report(folder, arguments, **options):
    path = folder / "report.html"
    write_report(find_methods(map(str, arguments)), path, **options)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("<i>runs")
    return report(folder, write_hostile_runs(folder))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_names_do_no_harm(text, page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "i", "iframe", "object", "link"}
    assert sum(tag == "b" for tag, _ in page.elements) == 2  # of the cards, and of no name
    assert not any(key.startswith("on") for _, a in page.elements for key in a)
    # They stand there as they are.
    for name in NAMES:
        assert name in page.text
        assert any(title.startswith(name) for title in page.titles)
    assert "<b>mine" in page.text and "<i><b>mine</i>" in page.text


def test_nothing_is_elsewhere(text, page):
    assert all(link.startswith(("#", "data:image/")) for link in page.links())
    assert not re.search(r"url\((?!#)|@import|javascript:", text)
    [policy] = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_links_in_the_page_have_a_target(page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in page.links() if link.startswith("#")} <= set(ids)


def test_metrics_and_classes(page):
    """mIoU 50 and 52, 49 and 51: means 51 and 50, deviation sqrt(2), the pairs differ by -1."""
    assert "51.00 ± 1.41" in page.text and "50.00 ± 1.41" in page.text
    assert "-1.00 [-1.00, -1.00]" in page.text
    hovered = [title for title in page.titles if title.startswith(NAMES[2])]
    # Of the class with 35 and 36 instead of 30 and 31, third of 5, so the rarest group.
    assert hovered[0] == (
        f"{NAMES[2]}: +5.00 [+5.00, +5.00]\nbase 30.50 ± 0.71\n<b>mine 35.50 ± 0.71\n"
        "10 training pixels, tail"
    )
    # A class without ground truth has no mark, but a row.
    assert not any(title.startswith(f"{NAMES[3]}: ") and "point" in title for title in page.titles)


def test_curves(page):
    captions = re.findall(r"(total_loss|loss_a|lr|sem_seg/mIoU)\b", page.text)
    assert {"total_loss", "loss_a", "lr", "sem_seg/mIoU"} <= set(captions)
    assert "base, seed 1: 0.0225 at iteration 399" in page.titles  # 9 / 400 = 0.0225


def test_pictures_and_figures(page):
    sizes = [(a["width"], a["height"]) for tag, a in page.elements if tag == "img"]
    assert sizes == [("1400", "350")] * 2
    assert "<i>wide" in page.text and "learned: alpha" in page.text
    assert f"{NAMES[0]}: 1.5, 0 train_count" in page.titles
    assert "b: 0.25, 90 train_count" in page.titles
    assert [title for title in page.titles if title.startswith("no value")] == [
        "no value: 0, 9 train_count"
    ]


def test_config_and_origin(page):
    assert "MODEL.HEAD" in page.text
    assert "All of them with torch 2.0." in page.text
    assert "2026-01-02 03:04:05+00:00" in page.text


def test_what_is_clear_is_bold(tmp_path):
    """mIoU differs by 3 and 3.1, +3.05 [+2.41, +3.69]; the others by nothing, or by -1 and 1."""
    for name, miou, aacc in (("base", (40, 41), (50, 50)), ("mine", (43, 44.1), (49, 51))):
        for seed in (0, 1):
            config = {"MODEL": {"HEAD": name}}
            metrics = {"mIoU": miou[seed], "aAcc": aacc[seed]}
            write_run(tmp_path / name / f"seed{seed}", metrics, seed=seed, config=config)
    text = report(tmp_path, [tmp_path / "base", tmp_path / "mine"])
    assert re.findall(r'class="number clear">([^<]*)<', text) == ["+3.05 [+2.41, +3.69]"]
    assert 'class="number">+0.00 [-12.71, +12.71]<' in text  # t of 1 degree of freedom


def test_a_single_run_shows_its_classes(tmp_path):
    write_run(tmp_path / "a", {"mIoU": 50})
    page = Page(report(tmp_path, [tmp_path / "a"]))
    assert "road: 90.00" not in page.text
    assert "road\na 90.00\n900 training pixels, head" in page.titles
    assert "Gained" not in page.text and "Training" not in page.text
    # What writes figures is named where there are none.
    assert "longtail analyze" in page.text and "longtail plot-calibration" in page.text


def test_the_most_confused_pair(tmp_path):
    """Of 10 pixels of tree 7 are taken for road."""
    confusion = [[90, 5, 5], [7, 3, 0], [0, 0, 0]]
    write_run(tmp_path / "a", {}, confusion=confusion)
    page = Page(report(tmp_path, [tmp_path / "a"]))
    assert "tree taken for road: 70.0 %" in page.titles
    assert re.search(r"tree\s*road\s*70\.0", page.text)


def test_many_classes_of_detection(tmp_path):
    """No confusion; classes are points over their counts, and one that never occurs is there."""
    rows = [
        {
            "id": k + 1,
            "name": f"c{k}",
            "frequency": "rcf"[k % 3],
            "train_images": k,
            "train_instances": 2 * k,
            "bbox": {"AP": None if k == 5 else k / 2},
        }
        for k in range(60)
    ]
    values = {"AP": 14.5, "APr": 14.0, "APc": 14.5, "APf": 15.0}
    write_evaluation(
        tmp_path / "a" / "inference" / "lvis" / "lvis_evaluation.json",
        {
            **head("lvis", "lvis"),
            "tasks": {"bbox": values},
            "categories": rows,
            "provenance": provenance(0, {}, 10, "a"),
        },
    )
    page = Page(report(tmp_path, [tmp_path / "a"]))
    assert "Confusion" not in page.text
    points = [title for title in page.titles if re.match(r"c\d+\n", title)]
    assert len(points) == 59 and "c0\na 0.00\n0 training images, r" in points
    assert "box APr, a: 14.00" in page.titles


def test_bad_input(tmp_path):
    write_run(tmp_path / "a", {})
    with raises_naming(FileNotFoundError, str(tmp_path / "gone")):
        report(tmp_path, [tmp_path / "a"], pictures=[tmp_path / "gone"])
    (tmp_path / "a" / "figures").mkdir()
    (tmp_path / "a" / "figures" / "x.json").write_text('{"classes": [')
    with raises_naming(ValueError, str(tmp_path / "a" / "figures" / "x.json")):
        report(tmp_path, [tmp_path / "a"])
    (tmp_path / "a" / "figures" / "x.json").write_text('[{"name": "a", "n_count": 1}, 3, {}, []]')
    (tmp_path / "a" / "pictures").mkdir()
    (tmp_path / "a" / "pictures" / "x.png").write_bytes(b"\x89PNG no more")
    with raises_naming(ValueError, str(tmp_path / "a" / "pictures" / "x.png")):
        report(tmp_path, [tmp_path / "a"])
    assert not (tmp_path / "report.html").exists()


CONFIG = "ADE20K/deeplabv3plus_R_101c_160k.yaml"


@pytest.mark.parametrize(
    ("override", "printed"),
    [
        # In the first table that has it; a later one rounds to 45.5.
        (["SEED", "3", "OUTPUT_DIR", "x", "DATALOADER.NUM_WORKERS", "7"], "45.47"),
        (["SOLVER.MAX_ITER", "100"], None),
    ],
)
def test_published_metrics(tmp_path, monkeypatch, override, printed):
    # Not all configs of the data set, which take long to load.
    few = {c: rows for c, rows in rows_of(read_leaves(), read_tables()).items() if "R_101c_" in c}
    monkeypatch.setattr(published_rows, "rows_of", lambda *_: few)
    config = yaml.safe_load(load_config(CONFIG, override).dump())
    done = config["SOLVER"]["MAX_ITER"]
    write_run(tmp_path / "a", {}, config=config, dataset="ade20k_sem_seg_val", iteration=done)
    found = published([read_run(tmp_path / "a")]).get(tmp_path / "a", {})
    assert found.get("mIoU") == printed
    if printed:
        assert found["mIoU tail"] == "37.6"
        assert "published 45.47" in report(tmp_path, [tmp_path / "a"])


@pytest.mark.parametrize(
    ("bounds", "clear"),
    # Runs that are the same in everything say nothing of others, and one run has no interval.
    [
        ((1.0, 2.0), True),
        ((-2.0, -1.0), True),
        ((-1.0, 2.0), False),
        ((0.0, 1.0), False),
        ((3.0, 3.0), False),
        (None, False),
    ],
)
def test_a_clear_difference_has_an_interval_without_0(bounds, clear):
    assert report_tables._is_clear(bounds) is clear
