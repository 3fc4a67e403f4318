"""What we did: the records under /run/vmnet-hooks, and the journal of what is under way."""
