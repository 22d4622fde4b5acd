# SPDX-License-Identifier: Apache-2.0
"""Registration: names, colours, groups and folders of the data sets, and the pairing of files."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import longtail.data.datasets
from longtail.data.datasets import register_all, register_sem_seg

OURS = {
    "coco_stuff_164k_sem_seg_train": 171,
    "coco_stuff_164k_sem_seg_val": 171,
    "coco_stuff_10k_sem_seg_train": 171,
    "coco_stuff_10k_sem_seg_test": 171,
    "camvid_sem_seg_train": 11,
    "camvid_sem_seg_val": 11,
    "camvid_sem_seg_test": 11,
    "ccp_sem_seg_train": 59,
    "ccp_sem_seg_val": 59,
    "ccp_sem_seg_test": 59,
}
ADE20K = {"ade20k_sem_seg_train": 150, "ade20k_sem_seg_val": 150}

# The release's labels.txt, 1 to 182; a star marks the eleven that never occur.
COCO_STUFF_RELEASE = """
person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|
*street sign|stop sign|parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|
giraffe|*hat|backpack|umbrella|*shoe|*eye glasses|handbag|tie|suitcase|frisbee|skis|snowboard|
sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle|*plate|
wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|
donut|cake|chair|couch|potted plant|bed|*mirror|dining table|*window|*desk|toilet|*door|tv|laptop|
mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|*blender|book|clock|vase|
scissors|teddy bear|hair drier|toothbrush|*hair brush|banner|blanket|branch|bridge|building-other|
bush|cabinet|cage|cardboard|carpet|ceiling-other|ceiling-tile|cloth|clothes|clouds|counter|
cupboard|curtain|desk-stuff|dirt|door-stuff|fence|floor-marble|floor-other|floor-stone|floor-tile|
floor-wood|flower|fog|food-other|fruit|furniture-other|grass|gravel|ground-other|hill|house|leaves|
light|mat|metal|mirror-stuff|moss|mountain|mud|napkin|net|paper|pavement|pillow|plant-other|
plastic|platform|playingfield|railing|railroad|river|road|rock|roof|rug|salad|sand|sea|shelf|
sky-other|skyscraper|snow|solid-other|stairs|stone|straw|structural-other|table|tent|textile-other|
towel|tree|vegetable|wall-brick|wall-concrete|wall-other|wall-panel|wall-stone|wall-tile|wall-wood|
water-other|waterdrops|window-blind|window-other|wood
"""


@pytest.fixture
def name():
    """A name that is free, and free again afterwards."""
    name = "test_register_sem_seg"
    yield name
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)


@pytest.fixture
def at_root():
    """Register under another root; the default comes back afterwards."""
    yield register_all
    register_all(longtail.data.datasets.datasets_root())


def make_files(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", (2, 2)).save(folder / name)


@pytest.mark.parametrize(("name", "num_classes"), [*OURS.items(), *ADE20K.items()])
def test_metadata_is_complete(name, num_classes):
    assert name in DatasetCatalog
    metadata = MetadataCatalog.get(name)
    assert len(metadata.stuff_classes) == len(set(metadata.stuff_classes)) == num_classes
    assert len(metadata.stuff_colors) == num_classes
    assert all(len(color) == 3 for color in metadata.stuff_colors)
    assert all(0 <= value <= 255 for color in metadata.stuff_colors for value in color)
    assert metadata.ignore_label == 255
    assert metadata.evaluator_type == "sem_seg"
    assert metadata.image_root != metadata.sem_seg_root


@pytest.mark.parametrize("name", OURS)
def test_colors_tell_the_classes_apart(name):
    colors = {tuple(color) for color in MetadataCatalog.get(name).stuff_colors}
    assert len(colors) == OURS[name]


@pytest.mark.parametrize("name", ADE20K)
def test_ade20k_groups_are_those_of_table_16(name):
    groups = MetadataCatalog.get(name).class_groups
    assert list(groups) == ["head", "body", "tail"]
    assert groups["head"] + groups["body"] + groups["tail"] == list(range(150))
    assert [len(members) for members in groups.values()] == [20, 55, 75]
    metadata = MetadataCatalog.get(name)
    color = dict(zip(metadata.stuff_classes, metadata.stuff_colors, strict=True))
    assert color["wall"] == [120, 120, 120]
    assert color["sky"] == [6, 230, 230]
    assert color["flag"] == [92, 0, 255]
    # Only road and skyscraper share theirs.
    assert color["road, route"] == color["skyscraper"]
    assert len({tuple(value) for value in color.values()}) == 149


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("coco_stuff")])
def test_coco_stuff_names_are_the_release_without_the_removed(name):
    release = COCO_STUFF_RELEASE.replace("\n", "").split("|")
    assert len(release) == 182
    expected = [entry for entry in release if not entry.startswith("*")]
    assert MetadataCatalog.get(name).stuff_classes == expected
    assert expected[79:81] == ["toothbrush", "banner"]  # the last thing, the first stuff


def test_ccp_is_grouped_by_training_images():
    metadata = MetadataCatalog.get("ccp_sem_seg_test")
    groups = {
        name: {metadata.stuff_classes[index] for index in indices}
        for name, indices in metadata.class_groups.items()
    }
    # In 1 to 9 training images, and in none.
    seldom = {"bodysuit", "bra", "cardigan", "earrings", "flats", "hoodie", "pumps", "ring"}
    seldom |= {"sneakers", "tights", "wedges"}
    assert groups["rare"] == seldom | {"clogs", "intimate", "panties", "swimwear"}
    assert len(groups["frequent"]) == 16 and {"null", "jeans", "shoes"} < groups["frequent"]
    assert {"gloves", "sweater"} < groups["common"]


def test_the_objects_of_ccp_are_its_garments_that_occur():
    for split in ("train", "val", "test"):
        metadata = MetadataCatalog.get(f"ccp_{split}")
        assert metadata.evaluator_type == "lvis"
        assert metadata.json_file.endswith(f"ccp/instances_{split}.json")
        assert metadata.image_root.endswith("ccp/images")
    everything = MetadataCatalog.get("ccp_sem_seg_train").stuff_classes
    left_out = {"null", "skin", "hair", "clogs", "intimate", "panties", "swimwear"}
    assert len(metadata.thing_classes) == 52
    assert metadata.thing_classes == [name for name in everything if name not in left_out]


def test_camvid_classes_have_their_colours():
    metadata = MetadataCatalog.get("camvid_sem_seg_train")
    color = dict(zip(metadata.stuff_classes, metadata.stuff_colors, strict=True))
    # label_colors.txt of the original, where pole and pavement are Column_Pole and Sidewalk.
    assert list(color.items()) == [
        ("Sky", [128, 128, 128]),
        ("Building", [128, 0, 0]),
        ("Pole", [192, 192, 128]),
        ("Road", [128, 64, 128]),
        ("Pavement", [0, 0, 192]),
        ("Tree", [128, 128, 0]),
        ("SignSymbol", [192, 128, 128]),
        ("Fence", [64, 64, 128]),
        ("Car", [64, 0, 128]),
        ("Pedestrian", [64, 64, 0]),
        ("Bicyclist", [0, 128, 192]),
    ]


@pytest.mark.parametrize("name", ["lvis_v0.5_train", "lvis_v0.5_val", "lvis_v1_train"])
def test_lvis_is_registered_for_its_evaluator(name):
    assert name in DatasetCatalog
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "lvis"
    assert len(metadata.thing_classes) == (1230 if "v0.5" in name else 1203)


def test_registering_again_moves_to_the_new_root(tmp_path, monkeypatch, at_root):
    at_root(str(tmp_path / "first"))
    assert MetadataCatalog.get("camvid_sem_seg_val").image_root.startswith(str(tmp_path / "first"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "second"))
    importlib.reload(longtail.data.datasets)
    assert MetadataCatalog.get("camvid_sem_seg_val").image_root.startswith(str(tmp_path / "second"))
    monkeypatch.undo()


def test_pairs_are_sorted_and_leave_other_files_alone(tmp_path, name):
    make_files(tmp_path / "images", ["b.jpg", "a.png", "c.JPG"])
    make_files(tmp_path / "labels", ["a.png", "c.png", "b.png"])
    (tmp_path / "images" / "Thumbs.db").touch()
    (tmp_path / "labels" / ".b.png.1234.tmp").touch()
    (tmp_path / "labels" / "._a.png").touch()
    register_sem_seg(name, tmp_path / "images", tmp_path / "labels", ["x", "y"])
    assert DatasetCatalog.get(name) == [
        {
            "file_name": str(tmp_path / "images" / image),
            "sem_seg_file_name": str(tmp_path / "labels" / label),
        }
        for image, label in [("a.png", "a.png"), ("b.jpg", "b.png"), ("c.JPG", "c.png")]
    ]


def test_image_ext_takes_only_those(tmp_path, name):
    make_files(tmp_path / "both", ["a.jpg", "a.png", "b.jpg", "b.png"])
    register_sem_seg(name, tmp_path / "both", tmp_path / "both", ["x"], image_ext="jpg")
    records = DatasetCatalog.get(name)
    assert [record["file_name"][-5:] for record in records] == ["a.jpg", "b.jpg"]
    register_sem_seg(name, tmp_path / "both", tmp_path / "both", ["x"])
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png share the name 'a'"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize("as_file", [False, True])
def test_file_names_choose_the_images(tmp_path, name, as_file):
    make_files(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg"])
    make_files(tmp_path / "labels", ["a.png", "c.png", "d.png"])
    chosen = ["c", "a"]
    if as_file:
        chosen = tmp_path / "list.txt"
        chosen.write_text("c\n\na\n")
    register_sem_seg(name, tmp_path / "images", tmp_path / "labels", ["x"], file_names=chosen)
    assert [record["file_name"][-5:] for record in DatasetCatalog.get(name)] == ["a.jpg", "c.jpg"]


def test_files_without_partner_are_named_with_the_fix(tmp_path, name):
    images, labels = tmp_path / "images", tmp_path / "labels"
    make_files(images, [f"{letter}.jpg" for letter in "abcdef"])
    make_files(labels, ["f.png"])
    register_sem_seg(name, images, labels, ["x"], hint="run the tool")
    with pytest.raises(
        ValueError, match=r"no label map in .*labels for 5 \(a, b, c, \.\.\.\); run the tool"
    ):
        DatasetCatalog.get(name)
    make_files(labels, [f"{letter}.png" for letter in "abcdefg"])
    with pytest.raises(ValueError, match=r"no image in .*images for 1 \(g\); run the tool"):
        DatasetCatalog.get(name)
    register_sem_seg(name, images, labels, ["x"], file_names=["a", "z"])
    with pytest.raises(ValueError, match=r"no image in .*images for 1 \(z\)"):
        DatasetCatalog.get(name)


def test_missing_folders_and_lists_say_how_to_make_them(tmp_path, name, at_root):
    at_root(str(tmp_path))
    for dataset in OURS:
        tool = dataset.split("_sem_seg")[0]
        command = f"longtail prepare {tool}"
        with pytest.raises(FileNotFoundError, match=rf"^{dataset}: .* missing; .*{command}"):
            DatasetCatalog.get(dataset)
    make_files(tmp_path / "images", ["a.jpg"])
    make_files(tmp_path / "labels", ["a.png"])
    register_sem_seg(
        name, tmp_path / "images", tmp_path / "labels", ["x"], file_names=tmp_path / "list.txt"
    )
    with pytest.raises(FileNotFoundError, match=r"the list of images .*list\.txt is missing"):
        DatasetCatalog.get(name)


def test_empty_folders_are_an_error(tmp_path, name):
    make_files(tmp_path, [])
    register_sem_seg(name, tmp_path, tmp_path, ["x"])
    with pytest.raises(ValueError, match="no images in"):
        DatasetCatalog.get(name)


def test_what_a_folder_has_besides_is_said_with_the_fix(tmp_path, name):
    images, labels = tmp_path / "images", tmp_path / "labels"
    make_files(images, ["a.bmp", "b.BMP", "c.png"])
    make_files(labels, ["a.png", "b.png", "c.png", "c.jpg"])
    (images / "more").mkdir()
    (images / "list.txt").touch()  # nobody takes it for an image
    (images / ".hidden.bmp").touch()
    register_sem_seg(name, images, labels, ["x"])
    with pytest.raises(ValueError) as error:
        DatasetCatalog.get(name)
    said = [
        f"no image in {images} for 2 (a, b)",
        f"left out of {images}: 2 files with .bmp (set image_ext, or convert them), 1 sub-folder (",
        f"left out of {labels}: 1 file with .jpg (label maps are PNG files, convert them)",
    ]
    assert [part for part in said if part not in str(error.value)] == []


def test_what_is_left_out_is_a_warning_once_where_the_rest_are_pairs(tmp_path, name, caplog):
    images, labels = tmp_path / "images", tmp_path / "labels"
    make_files(images, ["a.jpg", "b.bmp"])
    make_files(labels, ["a.png"])
    register_sem_seg(name, images, labels, ["x"])
    assert len(DatasetCatalog.get(name)) == len(DatasetCatalog.get(name)) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{name}: left out of {images}: 1 file with .bmp (set image_ext")


def test_images_and_labels_of_one_folder_are_no_other_files(tmp_path, name, caplog):
    make_files(tmp_path / "both", ["a.jpg", "a.png"])
    register_sem_seg(name, tmp_path / "both", tmp_path / "both", ["x"], image_ext="jpg")
    assert len(DatasetCatalog.get(name)) == 1
    assert caplog.records == []


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, name):
    make_files(tmp_path / "images", ["a.jpg"])
    make_files(tmp_path / "labels", ["a.png"])
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa\r\n")
    register_sem_seg(
        name, tmp_path / "images", tmp_path / "labels", ["x"], file_names=tmp_path / "list.txt"
    )
    assert len(DatasetCatalog.get(name)) == 1


def test_a_second_registration_replaces_the_first(tmp_path, name):
    register_sem_seg(name, tmp_path, tmp_path, ["x"])
    register_sem_seg(name, tmp_path, tmp_path, ["y", "z"], class_groups={"head": [1], "tail": [0]})
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == ["y", "z"]
    assert metadata.class_groups == {"head": [1], "tail": [0]}
    # The first two colours of PASCAL VOC after black.
    assert metadata.stuff_colors == [[128, 0, 0], [0, 128, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": []}, "at least one"),
        ({"classes": ["x", "x"]}, "different names"),
        ({"classes": ["x", "y"], "colors": [[0, 0, 0]]}, "2 classes need as many colors, got 1"),
        ({"classes": ["x", "y"], "ignore_label": 0}, "ignore_label 0 is also .* 'x'"),
        ({"classes": ["x", "y"], "ignore_label": 1}, "ignore_label 1 is also .* 'y'"),
        (
            {"classes": ["x", "y"], "class_groups": {"head": [0]}},
            r"class_groups .* 0\.\.1 .*'head': \[0\]",
        ),
        (
            {"classes": ["x"], "class_groups": {"head": [0], "tail": [0]}},
            r"class_groups .* 0\.\.0 .*'tail': \[0\]",
        ),
    ],
)
def test_contradicting_arguments_are_refused(tmp_path, name, arguments, message):
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        register_sem_seg(name, tmp_path, tmp_path, **arguments)
    assert name not in DatasetCatalog


def test_a_missing_ade20k_says_how_to_make_it(tmp_path):
    """In a process of its own: detectron2 reads the folder of all data sets when it is imported."""
    program = (
        "import longtail.data.datasets as d; from detectron2.data import DatasetCatalog as c; "
        "d.register_all('again'); c.get('ade20k_sem_seg_val')"
    )
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path)}
    command = [sys.executable, "-c", program]
    root = Path(__file__).resolve().parents[3]
    result = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert f"ade20k_sem_seg_val: {tmp_path}/ADEChallengeData2016/images/validation is" in last
    assert last.endswith("longtail prepare ade20k")
    assert last.count("is missing") == 1
