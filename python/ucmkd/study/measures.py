"""What the tables of a study show: the scores of classifiers, or those of the study's task."""

from __future__ import annotations

from ucmkd.study.config import StudyConfig
from ucmkd.study.controls import MEANING
from ucmkd.tasks import SECONDS, Measure, Shown, task_of

CLASSIFIERS = Shown(
    measures=(
        Measure("accuracy", "accuracy", "test accuracy, %"),
        Measure("balanced_accuracy", "balanced", "test balanced accuracy, %"),
        Measure("macro_f1", "macro-F1", tested=False),
        Measure("nll", "NLL", scale=1.0, form=".2f", tested=False),
        Measure("ece", "ECE", tested=False),
        Measure("teacher_accuracy", "teacher", tested=False),
        SECONDS,
    ),
    caption="Test scores in percent (NLL in nats)",
    columns="ECE: 15 bins. Teacher: its validation accuracy in its own modality. Seconds: training "
    "of the student, all candidates.",
    unit="Percentage points",
    meaning=MEANING,
)


def shown_of(study: StudyConfig) -> Shown:
    """What is measured and how it is told."""
    return CLASSIFIERS if study.task is None else task_of(study.task).shown
