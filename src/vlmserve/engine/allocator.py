"""What this process's memory allocator keeps, where it is glibc's; others are left alone."""

import ctypes
import threading

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_N_ARENAS = 2
_PERIOD_S = 10.0
_THREAD = "allocator"


def share_few_arenas() -> None:
    """Let all threads share two arenas.

    Each of many threads that handles megabytes now and then leaves an arena of its own full of
    holes; a process that runs one thread at a time gains nothing from that.
    """
    _tell(_M_ARENA_MAX, _N_ARENAS)


def keep_freed_memory(n_bytes: int) -> None:
    """Reuse freed memory up to this size, instead of giving it back and taking new pages."""
    _tell(_M_MMAP_THRESHOLD, n_bytes)
    _tell(_M_TRIM_THRESHOLD, n_bytes)


def give_back_regularly() -> None:
    """Give the holes between what is in use back to the system, every ten seconds.

    Tensors and images of all sizes come and go in a process that serves for weeks; glibc keeps
    their pages. Safe to call again. Not for a process that is going to be forked.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None or any(thread.name == _THREAD for thread in threading.enumerate()):
        return

    def give_back() -> None:
        pause = threading.Event()
        while not pause.wait(_PERIOD_S):
            trim(0)

    threading.Thread(target=give_back, name=_THREAD, daemon=True).start()


def _tell(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)
