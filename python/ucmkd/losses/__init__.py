"""Losses: student first, teacher second and detached; each a function and an ``nn.Module``."""

from ucmkd.losses.kd import KDLoss, kd_loss
from ucmkd.losses.label import LabelAlign, label_align
from ucmkd.losses.mmd import MMDAlign, mmd_align
from ucmkd.losses.sinkhorn import FeatureAlign, SinkhornAlign, feature_align, sinkhorn_align
from ucmkd.ops.warm import SinkhornState

__all__ = [
    "FeatureAlign",
    "KDLoss",
    "LabelAlign",
    "MMDAlign",
    "SinkhornAlign",
    "SinkhornState",
    "feature_align",
    "kd_loss",
    "label_align",
    "mmd_align",
    "sinkhorn_align",
]
