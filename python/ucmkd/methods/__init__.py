"""Distillation methods, one file each, on one small interface.

``create(name, student, ...)`` makes one; ``METHODS`` lists them; ``options(name)`` lists what a
method can be told. A new method is a subclass of :class:`Method` with a ``name``, entered with
:func:`register`.
"""

from __future__ import annotations

import inspect
from typing import Any

from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.c2kd import C2KD
from ucmkd.methods.ckd import CKD, ClassCKD
from ucmkd.methods.class_mmd import ClassMMD
from ucmkd.methods.class_soft_labels import ClassSoftLabels
from ucmkd.methods.cross_entropy import CrossEntropy, PriorOnly
from ucmkd.methods.discom_kd import DisCoMKD
from ucmkd.methods.dkd import DKD
from ucmkd.methods.dml import DML
from ucmkd.methods.feature_kd import FeatureKD, LabelAware
from ucmkd.methods.fitnet import FitNet
from ucmkd.methods.imbalance import LogitAdjustment, WeightedCE
from ucmkd.methods.joint_alignment import JointAlignment
from ucmkd.methods.norm import Norm
from ucmkd.methods.pkdot import PKDOT
from ucmkd.methods.pkdot_classes import ClassPKDOT
from ucmkd.methods.prior_correction import PriorCorrection
from ucmkd.methods.prototype_geometry import PrototypeGeometry
from ucmkd.methods.refused import refusal
from ucmkd.methods.rkd import RKD
from ucmkd.methods.self_labelling import SelfLabelling
from ucmkd.methods.self_labelling_with_pairs import SelfLabellingWithPairs
from ucmkd.methods.sp import SP
from ucmkd.methods.ucmkd import UCMKD
from ucmkd.methods.vanilla_kd import VanillaKD
from ucmkd.models import Student

METHODS: dict[str, type[Method]] = {}

#: What the trainer supplies; everything else of a method's signature is an option of the user.
SUPPLIED = frozenset(
    {
        "student",
        "teacher_head",
        "teacher_width",
        "num_classes",
        "class_prior",
        "label_counts",
        "peer",
    }
)


def register(method: type[Method]) -> type[Method]:
    """Enter a method under its ``name``; usable as a class decorator.

    Raises:
        ValueError: It has no name, or the name is taken by another class.
    """
    if not method.name:
        raise ValueError(f"{method.__name__} has no name")
    if METHODS.get(method.name, method) is not method:
        raise ValueError(f"the name {method.name!r} is taken by {METHODS[method.name].__name__}")
    METHODS[method.name] = method
    return method


for _method in (
    CrossEntropy,
    FeatureKD,
    LabelAware,
    JointAlignment,
    SelfLabelling,
    SelfLabellingWithPairs,
    PriorOnly,
    VanillaKD,
    UCMKD,
    WeightedCE,
    LogitAdjustment,
    PriorCorrection,
    ClassSoftLabels,
    PrototypeGeometry,
    ClassMMD,
    FitNet,
    RKD,
    DKD,
    Norm,
    C2KD,
    SP,
    CKD,
    ClassCKD,
    PKDOT,
    ClassPKDOT,
    DML,
    DisCoMKD,
):
    register(_method)


def _class_of(name: str) -> type[Method]:
    if name not in METHODS:
        if (reason := refusal(name)) is not None:
            raise ValueError(reason)
        near = checks.near_name(name, METHODS)
        raise ValueError(f"unknown method {name!r}{near} (known: {', '.join(METHODS)})")
    return METHODS[name]


def _arguments(method: type[Method]) -> dict[str, Any]:
    """Keyword arguments and defaults, over all base classes; a subclass's default counts."""
    found: dict[str, Any] = {}
    for cls in method.__mro__:
        if not issubclass(cls, Method) or "__init__" not in cls.__dict__:
            continue
        for parameter in inspect.signature(cls.__init__).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                found.setdefault(parameter.name, parameter.default)
    return found


def options(name: str) -> dict[str, Any]:
    """The options of a method and their defaults.

    Raises:
        ValueError: Unknown method; names the nearest. One that cannot be used; says why.
    """
    return {k: v for k, v in _arguments(_class_of(name)).items() if k not in SUPPLIED}


def create(name: str, student: Student, **kwargs: Any) -> Method:
    """Make a method by its name.

    Args:
        name: A key of :data:`METHODS`.
        student: The model to train.
        **kwargs: ``num_classes``, ``teacher_head``, ``teacher_width``, ``class_prior``,
            ``label_counts``, ``peer`` (:class:`Method`) and the method's options
            (:func:`options`).

    Raises:
        ValueError: Unknown method, one that cannot be used across modalities (says why and what
            can), an option out of range, or something the method needs is missing.
        TypeError: Unknown option, one of the wrong type, or ``num_classes`` is missing.
    """
    method = _class_of(name)
    known = _arguments(method)
    for key in kwargs:
        if key not in known:
            near = checks.near_name(key, known)
            raise TypeError(f"{name} has no option {key!r}{near} (accepted: {', '.join(known)})")
    if "num_classes" not in kwargs:
        raise TypeError(f"{name} needs num_classes, the number of classes C")
    return method(student, **kwargs)


__all__ = ["METHODS", "Batch", "Method", "create", "options", "register"]
