"""The host's own networks: links that we make, and NAT. A kind is a module with

OPTIONS              rows of its keys
parse_name(name)     raises ValueError
check(part)          cross-key checks of one part; raises ConfigError
check_together(declared)  checks across the whole configuration
resources(part, host)     pure composition
"""
