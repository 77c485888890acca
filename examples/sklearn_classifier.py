"""scikit-learn: arrays in, a classifier out; it goes into pipelines and searches."""

from __future__ import annotations

import numpy as np

from ucmkd import data
from ucmkd.sklearn import UCMKDClassifier


def main() -> dict[str, float]:
    """Alone, with an unpaired teacher, and with a pool measured in both modalities."""
    digits = data.load("digits")
    assert isinstance(digits, data.Views)
    shape, pixels, label = digits.views["shape"], digits.views["pixels"], digits.labels
    split = data.unpaired_split(label, seed=0)
    few = data.few_labels(label, 5, 0, pool=split.student_train)
    pool = np.setdiff1d(split.student_train, few)
    teacher = {"X_teacher": pixels[split.teacher_train], "y_teacher": label[split.teacher_train]}
    test = shape[split.test], label[split.test]

    def made() -> UCMKDClassifier:
        return UCMKDClassifier(steps=300, random_state=0)

    alone = made().fit(shape[few], label[few])
    taught = made().fit(shape[few], label[few], **teacher, X_unlabelled=shape[pool])
    paired = made().fit(
        shape[few], label[few], **teacher, X_paired=shape[pool], X_teacher_paired=pixels[pool]
    )
    terms = [record["loss"] for record in taught.history_]
    return {
        "first": terms[0]["ce"],
        "last": terms[-1]["ce"],
        "alone": alone.score(*test),
        "taught": taught.score(*test),
        "paired": paired.score(*test),
    }


if __name__ == "__main__":
    print(main())
