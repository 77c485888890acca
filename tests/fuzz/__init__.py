"""Random calls, most of them wrong: ``python -m tests.fuzz --seconds 3600 --seed 0``.

Each case calls a public operator, a loss, or a function of the compiled extension with arguments
of odd shapes, strides, types and values. It must return finite-or-declared results of the right
shape, or raise ``ValueError``, ``TypeError`` or ``OverflowError``; never crash, hang, panic, or
hand out memory that was not written.
"""
