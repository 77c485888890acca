"""Who takes part, one module per family; each set up as its users would want it.

All contestants of a case solve the same problem and return its value and its gradient to x.

Transport: uniform weights, ``C = |x-y|²``, the same absolute ε, no debiasing. Two settings:

``iterations``: a fixed number of plain iterations, no stopping test. The reference is the float64
iterate after as many iterations in the contestant's own order (x or y first; GeomLoss averages
and changes ε as it goes: its reference is itself in float64).

``residual``: until the L1 violation of the marginals is at most 1e-3, by the contestant's own
rule. Hand-written code and OTT look every 10 iterations; POT measures the L2 violation, and gets
the tolerance with which it stops where the L1 rule would; GeomLoss has no rule, and gets the
shortest schedule of a list that ends at that violation. The reference is the converged solution.
What can be chosen (OTT's momentum or Anderson acceleration, GeomLoss's schedule) is chosen for
each case by trying, on at most 1024 of the points: the fastest one within the bounds.
"""
