"""Write a large file past the page cache, where the system can.

A merge writes each byte once and does not read it again. Through the page cache every page of it is allocated, copied
to and held beside the model that is being read; on virtual machines that alone took several times as long as the
disk. Direct writes need aligned memory and lengths, so the data passes a buffer; the last, uneven piece is written
the ordinary way. Where direct writes are refused (tmpfs, macOS), everything is.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

CHUNK = 8 << 20
SYNC = 64 << 20  # ordinary writes: the disk is asked to begin after so many bytes (a kernel left alone waits)
PIECE = 512 << 10  # ordinary writes: larger ones make the kernel look for contiguous memory, at three times the cost
DIRECT = getattr(os, "O_DIRECT", 0)
BINARY = getattr(os, "O_BINARY", 0)  # Windows would write CR before every LF otherwise


class LargeFile:
    """A new file that is written from its beginning to its end by one thread."""

    def __init__(self, path: Path, direct: bool) -> None:
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | BINARY
        self.direct = direct and DIRECT != 0
        try:
            self.file = os.open(path, flags | (DIRECT if self.direct else 0), 0o644)
        except OSError:
            self.direct = False
            self.file = os.open(path, flags, 0o644)
        self.buffer = mmap.mmap(-1, CHUNK) if self.direct else None
        self.filled = self.unsynced = 0

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        while self.buffer is not None and data:
            count = min(len(data), CHUNK - self.filled)
            self.buffer[self.filled : self.filled + count] = data[:count]
            self.filled += count
            data = data[count:]
            if self.filled == CHUNK:
                self._put(memoryview(self.buffer))
                self.filled = 0
        self._put(data)

    def due(self) -> bool:
        """Tell whether enough was written the ordinary way that the disk should begin now."""
        if self.unsynced < SYNC:
            return False
        self.unsynced = 0
        return True

    def finish(self) -> None:
        """Write what is left and put the file on the disk for good."""
        if self.buffer is not None:
            left = memoryview(bytes(self.buffer[: self.filled]))
            self.buffer.close()
            self.buffer = None
            self._ordinary()
            self._put(left)
        os.fsync(self.file)
        os.close(self.file)

    def _put(self, data: memoryview) -> None:
        while data:
            try:
                written = os.write(self.file, data if self.direct else data[:PIECE])
            except OSError:
                if not self.direct:
                    raise
                self._ordinary()  # some file systems take the flag and refuse the write
                continue
            data = data[written:]
            self.unsynced += 0 if self.direct else written

    def _ordinary(self) -> None:
        if self.direct:
            import fcntl

            fcntl.fcntl(self.file, fcntl.F_SETFL, fcntl.fcntl(self.file, fcntl.F_GETFL) & ~DIRECT)
            self.direct = False
