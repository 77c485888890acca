"""Speed and accuracy of ucmkd's CPU kernels beside those of its peers.

Run it with ``make bench``, or in an environment with ``pip install 'ucmkd[bench]'``::

    python -m pytest benches --save                   # everything, two threads, writes a JSON file
    python -m pytest benches --sizes 64,256           # a quick look
    python -m pytest benches -k "sinkhorn and residual and 4096"   # one row
    python -m pytest benches --only ours,ott          # some contestants, by parts of their names
    python -m pytest benches --threads 8 --budget 5   # other machines; slow calls are cut sooner
    python -m benches.report benches/results/NAME.json   # prints a saved run again
    python -m benches.growth                          # the plot of time over n and d (make growth)

The cases: ``sinkhorn`` (``iterations`` and ``residual``, by n), ``batch`` (64 problems of 64
points), ``sequence`` (100 minibatches of a training run), ``streaming`` (n = 16,384), ``mmd``
(``five`` scales, ``one``, ``laplace``, ``energy``, by n), ``overhead`` (one call at n = 32 beside
an empty operator) and ``machine`` (distance to read bandwidth and peak arithmetic).

What is timed: one loss value *and* its gradient to the student's points, float32, in
milliseconds, from inputs that already are the contestant's own arrays. Compilation, warm-up and
imports are outside. All contestants of a case take turns: in every round each is timed once, in a
new random order, after an untimed call of its own if it is quick; a sample repeats a short call
until it lasts about 5 ms. The process is pinned to as many cores as it has threads, so that the
thread pools of PyTorch, OpenMP, XLA and Rust have the same room. Run it on an idle machine: the
load average at the start stands above the tables.

How exact it is stands beside every time: relative errors of value and gradient against a float64
solution of the same problem, written in NumPy in :mod:`benches.problems` and its neighbours and
independent of the package. A contestant outside the stated bounds keeps its row, with a mark, and
gets no ratio. One that is not installed, fails, or had to be stopped keeps a row that says so.

``--benchmark-disable`` runs every contestant once and checks the accuracy, without timing.
The modules: ``problems*`` (data and references), ``contestants`` (who takes part, at which
settings), ``timing`` (the rounds), ``machine`` and ``overhead`` (what is measured beside),
``report`` (tables and JSON), ``growth`` (the plot).
"""
