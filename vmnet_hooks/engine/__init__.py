"""Make it so: transactions on the kernel and the records, for guests and for the host. Every function takes a session first.

session      configuration, kernel and records of one host
facts        what a composition needs to know about the host
transaction  work a transaction out;  apply: carry it out, undo it, remove what owners claim
parts        declared parts of the host as owners;  owners: what owners in the records shall have
guests       plug and unplug NICs;  migration: cut a guest over that comes in
host         bring parts up and down;  takeover: guard a bridge that takes over a live port
check        compare configuration, records and kernel;  repair: remove the differences;  healing: the agent's share of that
"""
