"""`vmnet-hook import`: converts ifupdown's files, or the networks of the running kernel, to vmnet.toml."""
