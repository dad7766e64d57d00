"""The matrix products of the loop alone, forward and backward: what no loop goes below."""

import torch
import work

x, h, z, g = (torch.rand(work.BATCH, n) for n in (work.PIXELS, work.HIDDEN, work.CODES, 2 * work.CODES))
W1, W2, W3, W4 = (
    torch.rand(n, m)
    for n, m in (
        (work.HIDDEN, work.PIXELS),
        (2 * work.CODES, work.HIDDEN),
        (work.HIDDEN, work.CODES),
        (work.PIXELS, work.HIDDEN),
    )
)
forward = [(x, W1.T), (h, W2.T), (z, W3.T), (h, W4.T)]
backward = [(x.T, h), (x, W4), (h.T, z), (h, W3), (g.T, h), (g, W2), (h.T, x)]
results = {pair: torch.mm(*pair) for pair in forward + backward}
steps = len(work.train()) // work.BATCH
for epoch in range(work.EPOCHS):
    for pairs in [forward + backward] * steps + [forward] * (5000 // work.BATCH):
        for pair in pairs:
            torch.mm(*pair, out=results[pair])
    work.passed(epoch + 1, float("nan"))
work.finished(float("nan"))
