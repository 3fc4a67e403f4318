"""Drawings of the host. Pure: facts from the kernel and the records become a `Graph`, a `Graph` becomes text, SVG or DOT.

model              the graph: boxes and lines
build, labels      make a graph of the facts
layout, placement  place boxes and lines: columns from the wire to the guests
text, svg, dot     draw the graph
"""
