# SPDX-License-Identifier: Apache-2.0
"""The end of the quick start, after trainings that are finished already."""

import json

from disalign.commands import quickstart

from tests.finished_runs import head, provenance, write_report


def test_it_ends_with_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("longtail.data.synthetic.write_lvis_dataset", lambda *_, **__: None)
    commands = {}
    monkeypatch.setattr(quickstart, "run_command", lambda name, o, _: commands.update({name: o}))
    for name, ap in (("stage1", 10.0), ("stage2", 12.0)):
        values = {"AP": ap, "APr": 1.0, "APc": 2.0, "APf": 3.0}
        classes = [("a", "r", 1), ("b", "c", 10), ("c", "f", 100)]
        report = {
            **head("lvis", "lvis_synthetic_val"),
            "tasks": {"bbox": values, "segm": values},
            "categories": [
                {"name": n, "frequency": f, "train_images": i, "train_instances": i}
                | {task: {"AP": ap} for task in ("bbox", "segm")}
                for n, f, i in classes
            ],
            "provenance": provenance(0, {"MODEL": {"META_ARCHITECTURE": name}}, 10, name),
        }
        write_report(tmp_path / name / quickstart.RESULT, report)
    figures = tmp_path / "stage2" / "figures"
    figures.mkdir()
    rows = [{"name": n, "instance_count": i, "alpha": 1.5} for n, _, i in classes]
    (figures / "calibration.json").write_text(json.dumps({"stages": [{"classes": rows}]}))
    quickstart.main(["--output", str(tmp_path)])
    # Trained before; its values go where the page finds them.
    assert list(commands) == ["plot-calibration"]
    assert commands["plot-calibration"][-2:] == ["--output", str(figures)]
    page = (tmp_path / "report.html").read_text()
    assert "stage1 vs. stage2" in page and "calibration: alpha" in page
    assert f"{tmp_path}/report.html\n" in capsys.readouterr().out
