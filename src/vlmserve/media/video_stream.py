"""A video's bytes in the form in which OpenCV can read hostile ones."""

import io

from typing_extensions import override


class VideoStream(io.BytesIO):
    """A stream in memory whose ``seek`` never raises.

    A broken index sends FFmpeg to negative places. OpenCV (5.0) does not expect an exception from
    ``seek`` and ends the process with a segmentation fault; ``io.BytesIO`` raises one.
    """

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move, or return -1 where there is no such place: FFmpeg's sign of a failure."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError, OSError):
            return -1
