"""The registry of services: what a network offers its guests besides a link. A service is one file, and one row here."""

from ..model.kind import Registry, Row
from ..model.service import Service

SERVICES: Registry[Service] = Registry(
    Row("dhcp", "vmnet_hooks.services.dhcp", "Dhcp"),
    Row("dns", "vmnet_hooks.services.dns", "Dns"),
)
