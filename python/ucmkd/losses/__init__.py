"""Losses: student first, teacher second and detached; each a function and an ``nn.Module``."""

from ucmkd.losses.dkd import DKDLoss, dkd_loss
from ucmkd.losses.energy import EnergyAlign, energy_align
from ucmkd.losses.kd import KDLoss, kd_loss
from ucmkd.losses.label import LabelAlign, label_align
from ucmkd.losses.mmd import MMDAlign, mmd_align
from ucmkd.losses.moments import CMDAlign, CoralAlign, cmd_align, coral_align
from ucmkd.losses.rkd import RKDLoss, rkd_loss
from ucmkd.losses.sinkhorn import FeatureAlign, SinkhornAlign, feature_align, sinkhorn_align
from ucmkd.ops.warm import SinkhornState

__all__ = [
    "CMDAlign",
    "CoralAlign",
    "DKDLoss",
    "EnergyAlign",
    "FeatureAlign",
    "KDLoss",
    "LabelAlign",
    "MMDAlign",
    "RKDLoss",
    "SinkhornAlign",
    "SinkhornState",
    "cmd_align",
    "coral_align",
    "dkd_loss",
    "energy_align",
    "feature_align",
    "kd_loss",
    "label_align",
    "mmd_align",
    "rkd_loss",
    "sinkhorn_align",
]
