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
longtail predict output/calibrated images/val --output predicted --min-score 0.3

python - <<'END'
import json
import longtail
from pycocotools.coco import COCO

found = COCO("predicted/detections.json")
assert [c["name"] for c in found.loadCats(found.getCatIds())] == ["car", "sign"]
assert len(found.getImgIds()) == 3
detector = longtail.Predictor("output/calibrated", device="cpu")
instances = detector("images/val/0.jpg").instances
assert len(instances) == len(found.getAnnIds(imgIds=[i["id"] for i in found.imgs.values() if "0" in i["file_name"]]))
END
