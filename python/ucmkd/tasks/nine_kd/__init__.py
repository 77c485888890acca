"""Nine distillation methods where teacher and student see the same images, ``task: nine_kd``.

A small convolutional network on 8×8 digits learns by each of them on clean labels, on noisy ones
and with a long tail of rare classes, as in Sarfraz, Arani and Zonooz 2020 (arXiv 2007.01922).
Across modalities four of the nine cannot be used at all (:mod:`ucmkd.methods.refused`); here all
can.
"""

from ucmkd.tasks.nine_kd.task import TASK

__all__ = ["TASK"]
