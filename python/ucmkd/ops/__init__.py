"""Operators: autograd-ready, compiled-graph-ready, with one call per backend."""

from ucmkd.ops.bank import extend_potential
from ucmkd.ops.mmd import mmd
from ucmkd.ops.plan import barycentric_map, transport_plan
from ucmkd.ops.rounding import round_plan
from ucmkd.ops.sinkhorn import SinkhornOutput, sinkhorn
from ucmkd.ops.sinkhorn_cost import sinkhorn_cost, transport_plan_cost
from ucmkd.ops.sliced import energy_distance_1d, sliced_energy

__all__ = [
    "SinkhornOutput",
    "barycentric_map",
    "energy_distance_1d",
    "extend_potential",
    "mmd",
    "round_plan",
    "sinkhorn",
    "sinkhorn_cost",
    "sliced_energy",
    "transport_plan",
    "transport_plan_cost",
]
