# A segmentation engineer with photos and label maps: statistics, training, predictions, an export.
set -euo pipefail
python "$STORIES/make_data.py" photos

cat > my_data.yaml <<'END'
street_train: &street
  kind: sem_seg
  images: images/train
  labels: labels/train
  classes: [road, car, sign]
street_val:
  <<: *street
  images: images/val
  labels: labels/val
END
cat > segmentor.yaml <<'END'
_BASE_: Base-SemSeg-Lite0.yaml
DATASETS: {FILES: [my_data.yaml], TRAIN: [street_train], TEST: [street_val]}
MODEL:
  SEM_SEG_HEAD: {NAME: RegionRebalanceHead, NUM_CLASSES: 3}
  REGION_REBALANCE: {BASE_HEAD_NAME: SeparableDeepLabV3PlusHead}
INPUT: {MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 96, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96, CROP: {SIZE: [64, 64]}}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 60, WARMUP_ITERS: 0}
LOG: {TENSORBOARD: {IMAGES: 1}}
OUTPUT_DIR: output/segmentor
END

longtail info segmentor.yaml
longtail train --config-file segmentor.yaml
# Everything from here on needs the run alone.
longtail predict output/segmentor images/val --output predicted --overlays 2> said.txt
# The branch that only training has is nothing to warn of.
if grep "does not use" said.txt; then exit 1; fi
longtail evaluate-predictions --config-file segmentor.yaml --predictions predicted/labels --output evaluated
longtail export --config-file output/segmentor/config.yaml --weights output/segmentor/model_final.pth \
    --output bundle --format bundle
python -W ignore bundle/run.py images/val/0.jpg

python - <<'END'
import json

import longtail
import numpy as np
from PIL import Image

# The saved label map is what the model says in Python, and better than nothing.
predict = longtail.Predictor("output/segmentor", device="cpu")
found = predict("images/val/0.jpg")
assert found.labels.shape == (64, 96) and found.class_names == ["road", "car", "sign"]
labels = np.asarray(found.labels)
assert (np.asarray(Image.open("predicted/labels/0.png")) == labels).all()
truth = np.asarray(Image.open("labels/val/0.png"))
assert set(np.unique(labels)) >= {0, 1} and (labels == truth).mean() > 0.7


# The training's last evaluation, and that of the saved predictions.
def read(path):
    with open(path) as file:
        return json.load(file)


evaluated = read("evaluated/sem_seg_evaluation.json")
trained = read("output/segmentor/inference/street_val/sem_seg_evaluation.json")
assert evaluated["mIoU"] == trained["mIoU"] and 0 < evaluated["mIoU"] <= 100
assert set(evaluated["groups"]) == {"head", "body", "tail"}

# The exported model, which was run without detectron2.
about = read("bundle/model.json")
assert about["input"]["size"] is None and about["largest_relative_difference"] < 1e-4
assert (np.asarray(Image.open("0_labels.png")) == labels).mean() > 0.99
END
