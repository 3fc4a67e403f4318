"""Hook scripts that connect a hypervisor's guests to the host's networks."""

__version__ = "0.3.0"
CONFIGURATION = "/etc/vmnet-hooks"
"""The folder of the configuration."""
RUN = "/run/vmnet-hooks"
"""The folder of the records, the agent's socket and other runtime files. A tmpfs: it is empty after a boot."""
STATE = "/var/lib/vmnet-hooks"
"""The folder of what outlasts a boot."""
