# A detection engineer with COCO files of boxes: counts, two stages, predictions, their metrics.
set -euo pipefail
python "$STORIES/make_data.py" coco

cat > my_data.yaml <<'END'
cars_train: &cars
  kind: instances
  images: images/train
  annotations: train.json
  metrics: coco
  rare: 2
  common: 4
cars_val:
  <<: *cars
  images: images/val
  annotations: val.json
END
cat > detector.yaml <<'END'
_BASE_: Base-RCNN-FPN-Lite0.yaml
DATASETS: {FILES: [my_data.yaml], TRAIN: [cars_train], TEST: [cars_val]}
MODEL: {MASK_ON: False, ROI_HEADS: {NUM_CLASSES: 2}}
DATALOADER: {SAMPLER_TRAIN: RepeatFactorTrainingSampler, REPEAT_THRESHOLD: 0.5, NUM_WORKERS: 0}
INPUT: {MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 96, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96}
SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 3}
OUTPUT_DIR: output/detector
END
cat > calibrated.yaml <<'END'
_BASE_: detector.yaml
MODEL: {META_ARCHITECTURE: DisAlignRCNN, WEIGHTS: output/detector/model_final.pth}
OUTPUT_DIR: output/calibrated
END

longtail class-statistics --data my_data.yaml --dataset cars_train
longtail train --config-file detector.yaml
longtail train --config-file calibrated.yaml
longtail predict output/calibrated images/val --output predicted

longtail export --config-file output/calibrated/config.yaml \
    --weights output/calibrated/model_final.pth --output detector.ts --format torchscript

python - <<'END'
import json

import longtail
import numpy as np
import torch
import torchvision
from PIL import Image
from pycocotools.coco import COCO

# The saved detections are COCO's, and what the model says in Python.
found = COCO("predicted/detections.json")
assert [c["name"] for c in found.loadCats(found.getCatIds())] == ["car", "sign"]
assert len(found.getImgIds()) == 3
image = next(i for i in found.imgs.values() if i["file_name"].endswith("0.jpg"))
saved = found.loadAnns(found.getAnnIds(imgIds=[image["id"]]))
detector = longtail.Predictor("output/calibrated", device="cpu")
instances = detector("images/val/0.jpg").instances
assert len(instances) == len(saved) > 0
np.testing.assert_allclose(
    sorted(instances.scores.tolist()), sorted(a["score"] for a in saved), rtol=1e-4
)
for x, y, width, height in (a["bbox"] for a in saved):
    assert 0 <= x < x + width <= 96.01 and 0 <= y < y + height <= 64.01

# The table: AP of all, and of rare and frequent classes.
with open("output/calibrated/inference/cars_val/lvis_evaluation.json") as file:
    bbox = json.load(file)["tasks"]["bbox"]
assert all(0 <= bbox[name] <= 100 for name in ("AP", "AP50", "APr", "APf"))

# The exported file, without detectron2.
exported = torch.jit.load("detector.ts")
pixels = np.array(Image.open("images/val/0.jpg"))
if detector.cfg.INPUT.FORMAT == "BGR":
    pixels = pixels[:, :, ::-1].copy()
boxes, scores, classes = exported(torch.from_numpy(pixels).permute(2, 0, 1))
torch.testing.assert_close(scores, instances.scores, rtol=1e-3, atol=1e-4)
torch.testing.assert_close(boxes, instances.pred_boxes.tensor, rtol=1e-3, atol=1e-2)
assert classes.tolist() == instances.pred_classes.tolist()
END
