"""`vmnet-hook import`: what ifupdown's files, or the live kernel, say of the host's networks, as TOML of ours."""
