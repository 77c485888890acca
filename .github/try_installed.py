"""The first call of an installed ucmkd, with its compiled kernels."""

import torch

import ucmkd

x = torch.randn(64, 16, requires_grad=True)
ucmkd.losses.sinkhorn_align(x, torch.randn(48, 16), backend="rust").backward()
assert x.grad is not None and bool(x.grad.isfinite().all())
print(ucmkd.__version__, ucmkd.__file__, ucmkd.backends())
