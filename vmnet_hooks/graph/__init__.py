"""The host as a drawing. Pure: facts of the kernel and of the records become a `Graph`, a `Graph` becomes text, SVG or DOT.

model             the facts, and the graph
build, wording    from the facts to the graph
layout, rows      where each box goes: columns from the wire to the guests
text, svg, dot    the drawings
"""
