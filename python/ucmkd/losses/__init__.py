"""Losses: student first, teacher second and detached; each a function and an ``nn.Module``."""

from ucmkd.losses.energy import EnergyAlign, energy_align
from ucmkd.losses.kd import KDLoss, kd_loss
from ucmkd.losses.label import LabelAlign, label_align
from ucmkd.losses.mmd import MMDAlign, mmd_align
from ucmkd.losses.moments import CMDAlign, CoralAlign, cmd_align, coral_align
from ucmkd.losses.sinkhorn import FeatureAlign, SinkhornAlign, feature_align, sinkhorn_align
from ucmkd.ops.warm import SinkhornState

__all__ = [
    "CMDAlign",
    "CoralAlign",
    "EnergyAlign",
    "FeatureAlign",
    "KDLoss",
    "LabelAlign",
    "MMDAlign",
    "SinkhornAlign",
    "SinkhornState",
    "cmd_align",
    "coral_align",
    "energy_align",
    "feature_align",
    "kd_loss",
    "label_align",
    "mmd_align",
    "sinkhorn_align",
]
