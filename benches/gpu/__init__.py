"""The kernels without a GPU (what they compile to, a roofline model) and on one (benchmarks)."""
