"""What is known of who belongs to whom: pairs and groups, as labels of a transport.

Samples of two modalities may be known to belong together one by one (a pair: one sample measured
twice), in groups (one patient group, speaker, recording, time window), or not at all. All three are
labels with a class-distance matrix, which every operator takes (``x_label``, ``y_label``,
``label_cost``): a pair is a class of its own, which nothing else may enter; a group is a class
whose members may also be matched with samples of unknown group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Correspondence(NamedTuple):
    """Labels of rows and columns, and the distance of labels.

    Attributes:
        row: ``(n + p,)`` int64; the pairs come last.
        column: ``(m + p,)`` int64.
        distance: ``(K, K)``: 1 between labels that do not belong together, else 0.
    """

    row: Tensor
    column: Tensor
    distance: Tensor

    def penalty(self) -> Tensor:
        """``D[k_i, l_j]`` for every row and column, ``(n + p, m + p)``."""
        return self.distance[self.row][:, self.column]

    def column_weight(self, base: Tensor) -> Tensor:
        r"""Masses of the columns ``(m + p,)``, summing to one, with the rows' masses per label.

        .. math:: w_j = b_j\, r_{l_j} \big/ \sum_{j': l_{j'} = l_j} b_{j'}, \qquad
                  r_k = \tfrac{1}{n + p} \#\{i : k_i = k\}

        so that everything can be matched with its own label; what labels without columns would
        have is spread over the others in proportion.

        Args:
            base: b ``(m + p,)`` ≥ 0: how the columns of one label share its mass.
        """
        labels = len(self.distance)
        share = torch.bincount(self.row, minlength=labels).to(base.dtype) / len(self.row)
        have = torch.zeros(labels, dtype=base.dtype, device=base.device)
        have = have.index_add(0, self.column, base)
        weight = base * (share / have.clamp_min(torch.finfo(base.dtype).tiny))[self.column]
        total = weight.sum()
        return torch.where(total > 0, weight / total, torch.full_like(weight, 1 / len(weight)))


def correspondence(
    rows: int,
    columns: int,
    *,
    pairs: int = 0,
    row_group: Tensor | None = None,
    column_group: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Correspondence:
    """Labels for ``rows + pairs`` samples and ``columns + pairs`` samples.

    Args:
        rows: Number n of samples without a partner on the one side.
        columns: Number m on the other.
        pairs: Number p of pairs; pair k is row n + k and column m + k.
        row_group: Groups ``(n,)``, int64, -1 where unknown; None: all unknown.
        column_group: Groups ``(m,)``.
        device: Of the result; None: that of the groups.

    Raises:
        ValueError: Groups of the wrong length, or on one side only.
    """
    if (row_group is None) != (column_group is None):
        missing = "row_group" if row_group is None else "column_group"
        raise ValueError(f"{missing} must be given too: groups correspond across both sides")
    sizes = (("row_group", row_group, rows), ("column_group", column_group, columns))
    for name, group, size in sizes:
        if group is not None and group.shape != (size,):
            raise ValueError(f"{name} must have shape ({size},), got {tuple(group.shape)}")
    groups = 0
    if row_group is None or column_group is None:
        label = torch.zeros(rows + columns, dtype=torch.int64, device=device)
    else:
        both = torch.cat((row_group, column_group))
        names, label = torch.unique(both.clamp_min(-1), return_inverse=True)
        # Label 0 is "unknown", whether any sample is or not.
        label = label + int(bool((names >= 0).all()))
        groups = int(label.max()) if len(label) else 0
    own = torch.arange(groups + 1, groups + 1 + pairs, device=label.device)
    distance = 1 - torch.eye(groups + 1 + pairs, device=label.device)
    distance[0, : groups + 1] = 0
    distance[: groups + 1, 0] = 0
    return Correspondence(torch.cat((label[:rows], own)), torch.cat((label[rows:], own)), distance)
