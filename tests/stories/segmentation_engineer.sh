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
SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 3}
LOG: {TENSORBOARD: {IMAGES: 1}}
OUTPUT_DIR: output/segmentor
END

longtail info segmentor.yaml
longtail train --config-file segmentor.yaml
# Everything from here on needs the run alone.
longtail predict output/segmentor images/val --output predicted --overlays
longtail evaluate-predictions --config-file segmentor.yaml --predictions predicted/labels --output evaluated
longtail export --config-file output/segmentor/config.yaml --weights output/segmentor/model_final.pth \
    --output bundle --format bundle
python bundle/run.py images/val/0.jpg

python - <<'END'
import json
import numpy as np
from PIL import Image
import longtail

predict = longtail.Predictor("output/segmentor", device="cpu")
found = predict("images/val/0.jpg")
assert found.labels.shape == (64, 96) and found.class_names == ["road", "car", "sign"]
saved = np.asarray(Image.open("predicted/labels/0.png"))
assert (saved == np.asarray(found.labels)).all()
END
