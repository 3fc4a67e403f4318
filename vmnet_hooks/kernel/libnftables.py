"""libnftables, in-process: a fork of `nft` costs more than all of the kernel's own work.

The binding is five calls of libnftables' stable C API (libnftables(3)); Debian's python3-nftables is not on PyPI. nft.py loads
this when there is something to say.
"""

import ctypes
import errno
import os
import threading

from ..errors import KernelError, exhausted
from .free_files import are_free

FILES = 4
"""Files that a transaction may open: a socket for the names of links, and the names of protocols. The library calls exit(3) where
it can't."""

_ALONE = threading.Lock()
"""The library keeps its list of the host's links for all contexts together (libnftables 1.0.6, src/iface.c): one thread
frees it under another's feet, and the process dies."""

JSON = 1 << 4
"""The flag of `Context.run` for output as JSON."""


class Context:
    """A libnftables context. It keeps its netlink socket."""

    def __init__(self) -> None:
        try:
            lib = ctypes.CDLL("libnftables.so.1")
        except OSError:
            raise KernelError("libnftables.so.1 is missing; install the package nftables") from None
        lib.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]
            getattr(lib, name).restype = ctypes.c_char_p
        lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self._lib = lib
        self._ctx = lib.nft_ctx_new(0)
        if not self._ctx:
            raise KernelError("libnftables gives no context; is nf_tables in this kernel?")
        lib.nft_ctx_buffer_output(self._ctx)
        lib.nft_ctx_buffer_error(self._ctx)

    def run(self, statements: str, flags: int = 0) -> tuple[str, str]:
        """Runs statements as one transaction. Returns what was printed, and the error ("" if it went well)."""
        if not are_free(FILES):
            raise KernelError(f"nftables: {exhausted(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))}")
        self._lib.nft_ctx_output_set_flags(self._ctx, flags)
        with _ALONE:
            failed = self._lib.nft_run_cmd_from_buffer(self._ctx, statements.encode())
        output = self._lib.nft_ctx_get_output_buffer(self._ctx).decode()
        error = self._lib.nft_ctx_get_error_buffer(self._ctx).decode()
        return output, (error.strip() or "failed") if failed else ""

    def close(self) -> None:
        if self._ctx:
            self._lib.nft_ctx_free(self._ctx)
            self._ctx = None
