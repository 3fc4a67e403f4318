"""What the admin wrote: the registry of sections, the loading and checking of TOML, and composition."""
