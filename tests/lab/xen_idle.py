"""A kernel for paravirtual guests that do nothing: four kilobytes that block for ever. To load Debian's takes seconds.

See Xen's public/elfnote.h and xen(5), "64-bit PV": a hypercall is `syscall` with its number in rax.
"""

from __future__ import annotations

import struct

BASE = 0xFFFFFFFF80000000
PHYSICAL = 0x100000
HEADERS, PAGE = 0x1000, 0x1000
ENTRY, HYPERCALL_PAGE, VIRT_BASE, PADDR_OFFSET, XEN_VERSION, GUEST_OS, GUEST_VERSION, LOADER, PAE_MODE = range(1, 10)
# mov eax, 29 (sched_op); mov edi, 1 (block); xor esi, esi; syscall; jmp to the start.
CODE = bytes.fromhex("b81d000000 bf01000000 31f6 0f05 ebf0")


def note(number: int, value: int | str) -> bytes:
    data = value.encode() + b"\0" if isinstance(value, str) else struct.pack("<Q", value)
    return struct.pack("<III4s", 4, len(data), number, b"Xen\0") + data.ljust(-(-len(data) // 4) * 4, b"\0")


def kernel() -> bytes:
    """The ELF file."""
    start = BASE + PHYSICAL
    notes = b"".join(
        (
            note(GUEST_OS, "idle"),
            note(GUEST_VERSION, "1"),
            note(XEN_VERSION, "xen-3.0"),
            note(LOADER, "generic"),
            note(PAE_MODE, "yes"),
            note(VIRT_BASE, BASE),
            note(PADDR_OFFSET, 0),
            note(ENTRY, start),
            note(HYPERCALL_PAGE, start + PAGE),
        )
    )
    ident = b"\x7fELF" + bytes((2, 1, 1)).ljust(12, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, HEADERS, start, PHYSICAL, 2 * PAGE, 2 * PAGE, PAGE)
    described = struct.pack("<IIQQQQQQ", 4, 4, 64 + 2 * 56, 0, 0, len(notes), len(notes), 4)
    return (header + load + described + notes).ljust(HEADERS, b"\0") + CODE.ljust(2 * PAGE, b"\0")
