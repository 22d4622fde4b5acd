# SPDX-License-Identifier: Apache-2.0
"""Data files and modules of one's own that a config names."""

import sys
import textwrap

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.config import load_config
from longtail.data.mappers import MAPPER_REGISTRY
from longtail.engine.training.data_sets import build_mapper
from tests.messages import raises_naming

DATA = "{name}: {{kind: classification, images: images}}\n"


@pytest.fixture(autouse=True)
def only_here(monkeypatch):
    monkeypatch.setattr("longtail.data.datasets.declared._DECLARED", {})
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    before, modules = set(DatasetCatalog.list()), set(sys.modules)
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for name in set(sys.modules) - modules:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Configs in one folder, below their base in another, and a third to work in."""
    for name in ("base", "configs", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "base/base.yaml").write_text("DATASETS: {FILES: [data.yaml]}\n")
    (tmp_path / "configs/c.yaml").write_text("_BASE_: ../base/base.yaml\nSEED: 3\n")
    return tmp_path


def test_files_are_found_beside_the_config_that_names_them(folders):
    (folders / "base/data.yaml").write_text(DATA.format(name="own_base"))
    (folders / "work/data.yaml").write_text(DATA.format(name="own_work"))
    (folders / "configs/data.yaml").write_text(DATA.format(name="own_leaf"))
    cfg = load_config(str(folders / "configs/c.yaml"))
    assert (str(folders / "base/data.yaml"),) == cfg.DATASETS.FILES
    assert "own_base" in DatasetCatalog.list() and "own_leaf" not in DatasetCatalog.list()
    images = MetadataCatalog.get("own_base").image_root
    assert images == str(folders / "base/images")
    # What a run writes down is read again in any folder.
    (folders / "run.yaml").write_text(cfg.dump())
    assert load_config(str(folders / "run.yaml")).DATASETS.FILES == cfg.DATASETS.FILES


def test_files_of_the_command_line_are_in_the_working_folder(folders):
    (folders / "base/other.yaml").write_text(DATA.format(name="own_base"))
    (folders / "work/other.yaml").write_text(DATA.format(name="own_work"))
    load_config(str(folders / "configs/c.yaml"), ["DATASETS.FILES", "('other.yaml',)"])
    assert {"own_work", "own_base"} & set(DatasetCatalog.list()) == {"own_work"}


def test_files_that_are_nowhere(folders):
    with raises_naming(FileNotFoundError, "DATASETS.FILES", "data.yaml", "base", "work"):
        load_config(str(folders / "configs/c.yaml"))
    assert load_config(str(folders / "configs/c.yaml"), register=False).SEED == 3
    with raises_naming(ValueError, "DATASETS.FILES", "('name',)"):
        load_config("", ["DATASETS.FILES", "data.yaml"])


MODULE = """
    import own_sibling
    from longtail.data.mappers import MAPPER_REGISTRY

    @MAPPER_REGISTRY.register()
    def {name}(cfg, is_train):
        return own_sibling.VALUE, is_train
    """


def write_module(folder, name, text):
    (folder / f"{name}.py").write_text(textwrap.dedent(text))


def test_modules_of_the_working_folder(folders):
    write_module(folders / "work", "own_sibling", "VALUE = 7")
    write_module(folders / "work", "own_mapper", MODULE.format(name="own_mapper_x"))
    config = folders / "work/c.yaml"
    config.write_text("IMPORTS: [own_mapper]\nINPUT: {MAPPER: own_mapper_x}\n")
    with raises_naming(ValueError, "IMPORTS", "own_mapper", "--import own_mapper"):
        load_config(str(config))
    assert "own_mapper" not in sys.modules
    cfg = load_config(str(config), imports=["own_sibling", "own_mapper"])
    assert cfg.IMPORTS == ["own_mapper", "own_sibling"]
    assert build_mapper(cfg, "camvid_sem_seg_val", False) == (7, False)
    cfg.INPUT.MAPPER = "own_maper_x"
    with raises_naming(ValueError, "INPUT.MAPPER", "'own_maper_x'", "own_mapper_x"):
        build_mapper(cfg, "camvid_sem_seg_val", False)
    MAPPER_REGISTRY._obj_map.pop("own_mapper_x")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1 / 0", ["own_bad.py", "line 1", "ZeroDivisionError"]),
        ("x = 1\nx = (", ["own_bad.py", "line 2", "SyntaxError"]),
        ("import own_no_such_package", ["own_bad.py", "own_no_such_package"]),
    ],
)
def test_modules_that_fail_name_the_line(folders, text, parts):
    write_module(folders / "work", "own_bad", text)
    with raises_naming(ImportError, "--import own_bad", *parts):
        load_config("", imports=["own_bad"])


@pytest.mark.parametrize("name", ["own_absent", "own_absent.part", "own_absent.py", "../x", ""])
def test_modules_that_are_none(folders, name):
    with raises_naming(ImportError, "--import"):
        load_config("", imports=[name])


def test_an_installed_package_is_not_hidden(folders):
    write_module(folders / "work", "tabulate", "raise RuntimeError('another one')")
    sys.modules.pop("tabulate", None)
    load_config("", imports=["tabulate"])


def test_a_later_version_above_a_packaged_config(folders):
    leaf = folders / "configs/leaf.yaml"
    leaf.write_text("_BASE_: CamVid/deeplabv3plus_lite0.yaml\nVERSION: 9\n")
    with pytest.raises(ValueError, match=r"leaf\.yaml is a v9 config, expected v2"):
        load_config(str(leaf))


def test_the_base_may_be_a_packaged_config(folders):
    middle, leaf = folders / "base/middle.yaml", folders / "configs/leaf.yaml"
    middle.write_text("_BASE_: CamVid/deeplabv3plus_lite0.yaml\nVERSION: 2\nSEED: 5\n")
    leaf.write_text("_BASE_: ../base/middle.yaml\nMODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 4}}\n")
    cfg = load_config(str(leaf))
    packaged = load_config("CamVid/deeplabv3plus_lite0.yaml")
    assert (cfg.SEED, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (5, 4)
    cfg.SEED, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = packaged.SEED, 11
    assert cfg.dump() == packaged.dump()
    # A file of one's own comes first.
    (folders / "base/CamVid").mkdir()
    (folders / "base/CamVid/deeplabv3plus_lite0.yaml").write_text("SOLVER: {MAX_ITER: 77}\n")
    assert load_config(str(leaf)).SOLVER.MAX_ITER == 77
    middle.write_text("_BASE_: nowhere.yaml\n")
    with raises_naming(FileNotFoundError, "nowhere.yaml"):
        load_config(str(leaf))
    leaf.write_text("_BASE_: CamVid/deeplabv3plus_lite0.yaml\nSOLVER: {MAX_ITERS: 7}\n")
    with raises_naming(ValueError, "leaf.yaml", "SOLVER.MAX_ITERS", "SOLVER.MAX_ITER"):
        load_config(str(leaf))
