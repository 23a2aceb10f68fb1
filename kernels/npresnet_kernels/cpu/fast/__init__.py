"""Fast float32 convolutions, pools, norms and updates on the CPU, in explicit vectors."""
