"""Making it so: transactions on the kernel and the records, for guests and for the host."""
