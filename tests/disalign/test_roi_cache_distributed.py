# SPDX-License-Identifier: Apache-2.0
"""A cache of RoI features that two processes write is that of one, bit for bit."""

import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from disalign import roi_cache_index, roi_cache_making

from longtail.data.datasets.lvis import register_lvis_instances
from tests.processes import run_in_two_processes
from tests.tiny_detection import detector_config
from tests.tiny_roi_cache import NAME, second_stage, write_cache

STAGE2 = ["DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (), "MODEL.META_ARCHITECTURE", "DisAlignRCNN"]


def caching_process(rank, folder):
    """Write two epochs of three shards each; note which this process has written."""
    register_lvis_instances(NAME, folder / "data" / "lvis.json", folder / "data")
    os.environ["LONGTAIL_CACHE"] = str(folder / "statistics")
    own = folder / f"rank{rank}"
    own.mkdir()
    cfg = detector_config(own, [*STAGE2, "MODEL.WEIGHTS", str(folder / "stage1.pth")])
    roi_cache_index.IMAGES_PER_SHARD = 2
    write = roi_cache_making.write_shard

    def noted(path, images):
        (own / path.name).touch()
        write(path, images)

    roi_cache_making.write_shard = noted
    roi_cache_making.make_cache(cfg, folder / "two", 2)
    # Complete: nobody writes any more.
    roi_cache_making.make_cache(cfg, folder / "two", 2)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_two_processes_write_the_cache_of_one(tmp_path, begun):
    with second_stage(tmp_path) as options:
        one = write_cache(detector_config(tmp_path, options), tmp_path / "one", 2, 2)
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)
    if begun:
        (tmp_path / "two").mkdir()
        for name in ("cache.json", "shard_000001.pt"):
            (tmp_path / "two" / name).write_bytes((one / name).read_bytes())
    run_in_two_processes(caching_process, tmp_path)
    assert contents(tmp_path / "two") == contents(one)
    written = [sorted(p.name for p in (tmp_path / f"rank{r}").glob("shard*")) for r in (0, 1)]
    expected = [[0, 2, 4], [1, 3, 5]] if not begun else [[0, 3, 5], [2, 4]]
    assert written == [[f"shard_{n:06d}.pt" for n in numbers] for numbers in expected]
