r"""Alignment over many processes, on ``torch.distributed``.

Every loss with a ``group`` aligns the *global* batch: the rows of all ranks of the group, one rank
behind the other, in the order of the ranks; batch sizes may differ between ranks. The convention:

- *Value*: that of a single process with the concatenated batch, the same on every rank.
- *Gradient*: that of the sum of the ranks' losses. Where every rank uses the value in the same
  way, rank :math:`r` thus gets :math:`W\,\partial L/\partial z_r` for its rows :math:`z_r` among
  :math:`W` ranks. The mean over the ranks that ``DistributedDataParallel`` and ``fully_shard``
  take is then

  .. math:: \tfrac1W\sum_r J_r^\top\,W\,\partial L/\partial z_r = \nabla_\theta L,

  the single process's gradient, with no factor of the world size to add anywhere; and a term that
  each rank takes over its own samples is averaged as usual. To sum over the ranks by hand instead
  of averaging, divide by :math:`W`.
- *Parameters* that every rank holds (a learned ε or bandwidth) get :math:`\partial L` on each rank,
  and their mean is the same.

With ``group`` on :func:`ucmkd.losses.sinkhorn_align` and :func:`ucmkd.losses.mmd_align` every rank
gathers the global batch, ``O((n+m)d)``, and solves it. :func:`sharded_sinkhorn_align` and
:func:`sharded_mmd_align` leave the rows where they are, share the work and keep
``O((n+m)d/W + n + m)``; :mod:`ucmkd.distributed.model` says what they send, and how long that may
take on many machines.

All ranks of the group must call the loss, and its backward if one does: as with any collective, a
rank that does not come is waited for until the group's timeout.
"""

from ucmkd.distributed._batch import Batch, global_batch
from ucmkd.distributed._group import Group, Ranks
from ucmkd.distributed.mmd import sharded_mmd_align
from ucmkd.distributed.sinkhorn import sharded_sinkhorn_align

__all__ = [
    "Batch",
    "Group",
    "Ranks",
    "global_batch",
    "sharded_mmd_align",
    "sharded_sinkhorn_align",
]
