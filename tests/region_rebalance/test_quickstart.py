# SPDX-License-Identifier: Apache-2.0
"""The end of the quick start, after trainings that are finished already."""

from PIL import Image
from region_rebalance.commands import quickstart

from tests.finished_runs import write_run


def test_it_ends_with_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("longtail.data.synthetic.write_dataset", lambda *_: None)
    commands = []
    monkeypatch.setattr(quickstart, "run_command", lambda name, *_: commands.append(name))
    for name, miou in (("baseline", 40), ("region_rebalance", 43)):
        config = {"MODEL": {"HEAD": name}}
        write_run(tmp_path / name, {"mIoU": miou}, config=config, dataset="synthetic_sem_seg_val")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "scene.png")
    quickstart.main(["--output", str(tmp_path)])
    # Trained before.
    assert commands == ["visualize"]
    page = (tmp_path / "report.html").read_text()
    assert "baseline vs. region_rebalance" in page and 'alt="scene"' in page
    printed = capsys.readouterr().out
    assert f"{tmp_path}/report.html\n" in printed
    assert (tmp_path / "comparison.txt").read_text() in printed
