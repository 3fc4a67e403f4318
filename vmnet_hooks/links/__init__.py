"""The host's own networks: links that we make, and NAT. Each kind is a class in a file of its own; see model/kind.py for what it
defines. The registry that names them is declared/__init__.py."""
