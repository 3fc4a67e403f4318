"""The kernel edge: the only code that reads and changes kernel state. `linux.Kernel` is all of it, and costs pyroute2."""
