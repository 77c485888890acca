"""A configuration's question, asked."""

from __future__ import annotations

from ucmkd.config import ConfigError
from ucmkd.information.complementarity import TeacherRanking, complementarity
from ucmkd.information.rules import RULES
from ucmkd.teachers.config import TeachersConfig
from ucmkd.teachers.samples import Samples


def compare_teachers(config: TeachersConfig, samples: Samples) -> TeacherRanking:
    """Ask the configuration's rule about all candidates.

    Without pairs ``rule: accuracy`` goes on as it is, every other rule needs ``pairing: class``.

    Raises:
        ConfigError: no pairs, and a rule that needs them.
        ValueError: see :func:`ucmkd.information.complementarity`.
    """
    pairing, unpaired = config.pairing, samples.unpaired
    if unpaired and pairing == "rows" and config.rule != "accuracy":
        without = [name for name, rule in RULES.items() if not rule.needs_pairs]
        raise ConfigError(
            f"rule {config.rule!r} compares teacher and student on the same samples, and "
            f"{', '.join(unpaired)} shares none with the student; set rule to accuracy, or pairing "
            "to class, the class-conditional surrogate (it ranks, but cannot say that a teacher "
            f"helps), with one of {', '.join(without)}"
        )
    teachers, labels = dict(samples.teachers), None
    if unpaired:
        pairing = "class"
        teachers = {name: samples.own[name][0] for name in teachers}
        labels = {name: samples.own[name][1] for name in teachers}
    elif pairing == "class":
        if not samples.own:
            labels = {name: samples.labels for name in teachers}
        else:
            teachers = {name: samples.own[name][0] for name in teachers}
            labels = {name: samples.own[name][1] for name in teachers}
    return complementarity(
        teachers,
        samples.student,
        samples.labels,
        rule=config.rule,
        method=config.method,
        dims=config.dims,
        pairing=pairing,
        teacher_labels=labels,
        own=samples.own or None,
        weight=config.weight,
        confidence=config.confidence,
        subsamples=config.subsamples,
        seed=config.seed,
    )
