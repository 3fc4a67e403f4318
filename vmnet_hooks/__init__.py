"""Hook scripts that wire a hypervisor's guests to the host's networks."""

__version__ = "0.1.0"
