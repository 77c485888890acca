"""Operators: autograd-ready, compiled-graph-ready, with one call per backend."""

from ucmkd.ops.mmd import mmd
from ucmkd.ops.plan import barycentric_map, transport_plan
from ucmkd.ops.rounding import round_plan
from ucmkd.ops.sinkhorn import SinkhornOutput, sinkhorn
from ucmkd.ops.sinkhorn_cost import sinkhorn_cost, transport_plan_cost

__all__ = [
    "SinkhornOutput",
    "barycentric_map",
    "mmd",
    "round_plan",
    "sinkhorn",
    "sinkhorn_cost",
    "transport_plan",
    "transport_plan_cost",
]
