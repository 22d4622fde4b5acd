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
SOLVER: {IMS_PER_BATCH: 4, MAX_ITER: 2}
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
