"""Kernel sets of npresnet: pure functions on arrays behind one contract (`contract.KernelSet`)."""
