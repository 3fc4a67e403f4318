"""Hook scripts that wire a hypervisor's guests to the host's networks."""

__version__ = "0.1.0"
CONFIGURATION = "/etc/vmnet-hooks"
"""What the admin declares."""
RUN = "/run/vmnet-hooks"
"""The records, the agent's socket, and what lasts until the host boots."""
