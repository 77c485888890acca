"""Nine distillation methods where teacher and student see the same images.

``python -m benches.nine_kd`` trains a small convolutional network on 8×8 digits with each of them,
on clean labels, on noisy ones and with a long tail of rare classes, as in Sarfraz, Arani and Zonooz
2020 (arXiv 2007.01922), and writes a table and a figure. Across modalities four of the nine cannot
be used at all (:mod:`ucmkd.methods.refused`); here all can.
"""
