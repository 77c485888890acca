"""Losses: student first, teacher second and detached; each a function and an ``nn.Module``."""

from ucmkd.losses.attention import AttentionLoss, attention_loss
from ucmkd.losses.bss import BSSLoss, bss_loss
from ucmkd.losses.dkd import DKDLoss, dkd_loss
from ucmkd.losses.energy import EnergyAlign, energy_align
from ucmkd.losses.fsp import FSPLoss, fsp_loss
from ucmkd.losses.kd import KDLoss, kd_loss
from ucmkd.losses.label import LabelAlign, label_align
from ucmkd.losses.mmd import MMDAlign, mmd_align
from ucmkd.losses.moments import CMDAlign, CoralAlign, cmd_align, coral_align
from ucmkd.losses.one import ONELoss, one_loss
from ucmkd.losses.rkd import RKDLoss, rkd_loss
from ucmkd.losses.sinkhorn import FeatureAlign, SinkhornAlign, feature_align, sinkhorn_align
from ucmkd.ops.warm import SinkhornState

__all__ = [
    "AttentionLoss",
    "BSSLoss",
    "CMDAlign",
    "CoralAlign",
    "DKDLoss",
    "EnergyAlign",
    "FSPLoss",
    "FeatureAlign",
    "KDLoss",
    "LabelAlign",
    "MMDAlign",
    "ONELoss",
    "RKDLoss",
    "SinkhornAlign",
    "SinkhornState",
    "attention_loss",
    "bss_loss",
    "cmd_align",
    "coral_align",
    "dkd_loss",
    "energy_align",
    "feature_align",
    "fsp_loss",
    "kd_loss",
    "label_align",
    "mmd_align",
    "one_loss",
    "rkd_loss",
    "sinkhorn_align",
]
