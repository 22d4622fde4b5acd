# A researcher with a new loss in a file of their own: a comparison by sweep, then its own model.
set -euo pipefail
python "$STORIES/make_data.py" folders

cat > my_losses.py <<'END'
from longtail.losses.base import SampleMeanLoss
from longtail.losses.build import IMAGES, register_loss
from torch.nn import functional as F


class Smoothed(SampleMeanLoss):
    def sample_losses(self, logits, classes):
        return F.cross_entropy(logits, classes, reduction="none", label_smoothing=0.1)


@register_loss(IMAGES)
def smoothed(cfg, task):
    return Smoothed(task.num_classes(cfg))
END
cat > my_data.yaml <<'END'
birds_train: {kind: classification, images: train}
birds_test: {kind: classification, images: test, training_set: birds_train}
END
cat > classifier.yaml <<'END'
_BASE_: Base-Classification-Small.yaml
IMPORTS: [my_losses]
DATASETS: {FILES: [my_data.yaml], TRAIN: [birds_train], TEST: [birds_test]}
MODEL: {CLASSIFIER: {NUM_CLASSES: 3, LOSS: smoothed}}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 4, MAX_ITER: 4}
OUTPUT_DIR: output/smoothed
END

# A config alone runs no code: the module has to be allowed.
if longtail train --config-file classifier.yaml 2> refused.txt; then exit 1; fi
grep -q -- "--import my_losses" refused.txt

longtail sweep classifier.yaml MODEL.CLASSIFIER.LOSS=smoothed,balanced_softmax --seeds 1 \
    --num-gpus 0 --import my_losses
longtail train --config-file classifier.yaml --import my_losses
longtail predict output/smoothed test --output predicted --top 2 --import my_losses
longtail export --config-file output/smoothed/config.yaml --import my_losses \
    --weights output/smoothed/model_final.pth --output smoothed.pt2 --format torch-export

python - <<'END'
import csv
import json
import pathlib

import longtail
import numpy as np
import torch

# What was compared differs in the loss alone, and both have all metrics.
runs = pathlib.Path("output/classifier")
for loss in ("smoothed", "balanced_softmax"):
    folder = runs / f"LOSS={loss}" / "seed0"
    with open(folder / "inference/birds_test/classification_evaluation.json") as file:
        report = json.load(file)
    assert report["num_images"] == 12 and 0 <= report["top1"] <= 100
    assert f"LOSS: {loss}\n" in (folder / "config.yaml").read_text()

# The saved predictions are what the model says in Python.
predict = longtail.Predictor("output/smoothed", device="cpu", imports=["my_losses"])
with open("predicted/predictions.csv") as file:
    rows = {row["file_name"]: row for row in csv.DictReader(file)}
assert len(rows) == 12
for name, row in rows.items():
    probabilities = np.asarray(predict(f"test/{name}").probabilities)
    best = int(probabilities.argmax())
    assert row["class_1"] == ["emu", "kiwi", "wren"][best]
    assert abs(float(row["probability_1"]) - probabilities[best]) < 1e-4
    assert abs(probabilities.sum() - 1) < 1e-4

# The exported program, on random images of the size that it takes.
program = torch.export.load("smoothed.pt2").module()
pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8))
with torch.no_grad():
    found = program(pixels)
    outputs = predict.model([{"image": image} for image in pixels])
expected = torch.stack([next(iter(output.values())) for output in outputs])
torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
END
