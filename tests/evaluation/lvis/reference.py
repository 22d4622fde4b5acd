# SPDX-License-Identifier: Apache-2.0
"""AP_fixed and AP_pool by plain loops, with nothing of the evaluator but pycocotools' IoU."""

import numpy as np
import pycocotools.mask as mask_util

from tests.evaluation.lvis.scenes import H, W

THRESHOLDS = [0.5 + 0.05 * t for t in range(10)]
AREAS = {"": (0, 1e10), "s": (0, 1024), "m": (1024, 9216), "l": (9216, 1e10)}


def greedy(detections, annotations, not_exhaustive, area_range, threshold):
    """(right, wrong) of one category in one image; plain loops."""
    low, high = area_range

    def ignored(a):
        return bool(a.get("ignore")) or not low <= a["area"] <= high

    used, verdicts = set(), []
    for d in detections:
        best = None
        for want_ignored in (False, True):
            for i, a in enumerate(annotations):
                iou = d["iou"][a["id"]]
                if i in used or ignored(a) != want_ignored or iou < threshold:
                    continue
                if best is None or iou >= d["iou"][annotations[best]["id"]]:
                    best = i
            if best is not None:
                break
        if best is not None:
            used.add(best)
            verdicts.append((not ignored(annotations[best]), False))
        else:
            verdicts.append((False, low <= d["area"] <= high and d["area"] and not not_exhaustive))
    return verdicts


def average_precision(verdicts, total):
    points, right, wrong = [], 0, 0
    for tp, fp in verdicts:
        right, wrong = right + tp, wrong + bool(fp)
        points.append((right / total, right / max(right + wrong, 1)))
    best = [
        max([p for r, p in points if r >= recall], default=0) for recall in np.linspace(0, 1, 101)
    ]
    return sum(best) / 101


def collect(content, inputs, outputs, task, limit):
    """Detections by category, the best ``limit`` of each, with the IoUs of their image."""
    sizes = {(i["id"]): i for i in content["images"]}
    by_category = {c["id"]: [] for c in content["categories"]}
    for record, output in sorted(zip(inputs, outputs, strict=True), key=lambda p: p[0]["image_id"]):
        found, image = output["instances"], sizes[record["image_id"]]
        for n in range(len(found)):
            x0, y0, x1, y1 = found.pred_boxes.tensor[n].double().tolist()
            shape = np.array([[x0, y0, x1 - x0, y1 - y0]])
            area = shape[0, 2] * shape[0, 3]
            if task == "segm":
                mask = np.asfortranarray(found.pred_masks[n].numpy(), np.uint8)
                shape, area = [mask_util.encode(mask)], mask.sum()
            detection = {"score": float(found.scores[n]), "image": image, "shape": shape}
            detection |= {"area": area, "category": int(found.pred_classes[n]) + 1}
            by_category[detection["category"]].append(detection)
    for found in by_category.values():
        found.sort(key=lambda d: -d["score"])  # stable
        del found[limit:]
    return by_category


def reference(content, inputs, outputs, task, limit):
    """AP_fixed in its nine forms and AP_pool by plain loops."""
    annotations = [a for a in content["annotations"] if a["area"] > 0]
    by_category = collect(content, inputs, outputs, task, limit)
    verdicts, totals = {}, {}
    for name, area_range in AREAS.items():
        for c, found in by_category.items():
            mine = [a for a in annotations if a["category_id"] == c]
            low, high = area_range
            totals[name, c] = sum(not a.get("ignore") and low <= a["area"] <= high for a in mine)
            for t, threshold in enumerate(THRESHOLDS):
                rows = verdicts[name, c, t] = []
                for image in content["images"]:
                    truth = [a for a in mine if a["image_id"] == image["id"]]
                    if not truth and c not in image["neg_category_ids"]:
                        continue
                    here = [d for d in found if d["image"] is image]
                    for d in here:
                        d.setdefault("iou", {a["id"]: overlap(d, a, task) for a in truth})
                    open_list = c in image["not_exhaustive_category_ids"]
                    marks = greedy(here, truth, open_list, area_range, threshold - 1e-9)
                    rows += [(d, *mark) for d, mark in zip(here, marks, strict=True)]
                rows.sort(key=lambda row: (-row[0]["score"], row[0]["image"]["id"]))
    return figures(content, verdicts, totals)


def figures(content, verdicts, totals):
    categories = {c["id"]: c["frequency"] for c in content["categories"]}

    def mean_ap(area, chosen, thresholds=range(10)):
        values = [
            average_precision([row[1:] for row in verdicts[area, c, t]], totals[area, c])
            for c in chosen
            for t in thresholds
            if totals[area, c]
        ]
        return 100 * np.mean(values) if values else np.nan

    def pooled(chosen):
        total = sum(totals["", c] for c in chosen)
        curves = []
        for t in range(10):
            rows = [row for c in sorted(chosen) for row in verdicts["", c, t]]
            rows.sort(key=lambda row: (-row[0]["score"], row[0]["image"]["id"]))
            curves.append(average_precision([row[1:] for row in rows], total))
        return 100 * np.mean(curves)

    groups = {f: [c for c, g in categories.items() if g == f] for f in "rcf"}
    results = {"AP_fixed": mean_ap("", categories)}
    results |= {"AP50_fixed": mean_ap("", categories, [0])}
    results |= {"AP75_fixed": mean_ap("", categories, [5])}
    results |= {f"AP{a}_fixed": mean_ap(a, categories) for a in "sml"}
    results |= {f"AP{f}_fixed": mean_ap("", group) for f, group in groups.items()}
    results["AP_pool"] = pooled(categories)
    return results | {f"AP{f}_pool": pooled(group) for f, group in groups.items()}


def overlap(detection, annotation, task):
    if task == "bbox":
        truth = np.array([annotation["bbox"]], np.float64)
    else:
        shape = annotation["segmentation"]
        if isinstance(shape, list):
            shape = mask_util.merge(mask_util.frPyObjects(shape, H, W))
        elif isinstance(shape["counts"], list):
            shape = mask_util.frPyObjects(shape, H, W)
        truth = [shape]
    return mask_util.iou(detection["shape"], truth, [0])[0, 0]
