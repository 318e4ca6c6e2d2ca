"""Hardware-aware neural architecture search."""

import os

# PyTorch's threads spin while they wait for each other: where another process takes a core from one of them, a step of
# the supernet on two cores took 14 times as long as on one. Read when PyTorch is loaded, which is after this.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
