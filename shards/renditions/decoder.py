"""Images are decoded in a process beside the worker: whatever a file does to a decoder, the worker lives to name it.

A decoder that dies or is late is replaced, and the image tried once more in the new one; what kills or delays that too
is rejected. Only decoding is judged: the file is read by the worker, so a disk that does not answer is no image's
fault. What may be the machine's fault, memory before all, rejects nothing and ends the run.

The process is forked, which takes milliseconds where a new Python would take half a second, and it starts no thread
and opens nothing. Bytes go to it through shared memory: a pipe would take ten turns for a radiograph, and a limit on
file sizes (ulimit -f) counts for a file in memory too.
"""

import ctypes
import faulthandler
import mmap
import os
import select
import signal
import struct
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Generic, NamedTuple, TypeVar

import cv2
import simplejpeg

from shards.decoding.decoded import MOST_PIXELS, RejectedImage
from shards.decoding.dicom import height_and_width
from shards.decoding.magic import image_kind
from shards.errors import UserError
from shards.renditions.source import put_into, read_into
from shards.storage.location import Location
from shards.workers import LOOK, send_answer

_BYTES_OF_A_PIXEL = 16  # of memory that decoding takes: 16-bit RGBA and its copies
# what a fault of the decoder itself ends in; all other signals come from outside
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
_LEAST_BYTES = 1 << 22  # of shared memory; what is not used takes none
_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG
_MALLOC_LIMITS = (-1, -3)  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_KEPT_BYTES = 1 << 25  # the most that glibc takes for the second

Made = TypeVar("Made")
Answer = TypeVar("Answer")


class _Child(NamedTuple):
    process: int
    descriptor: int  # readable when the process has ended
    connection: Connection
    news: select.poll  # of both


class _DecoderLost(Exception):
    """Why, as a reason for rejecting. machine: it may be the machine's fault."""

    def __init__(self, reason: str, machine: bool = False):
        super().__init__(reason)
        self.machine = machine


class Decoder(Generic[Made]):
    """Calls `make(data, name, inverted)` for the bytes of a file in a process of its own, while `with` lasts.

    Args:
        make: May raise RejectedImage.
        stall: Seconds that it may take.
        alive: Called now and then while it takes long.
    """

    def __init__(
        self, make: Callable[[bytes, str, bool], Made], stall: float, alive: Callable[[], object] = lambda: None
    ):
        self._make, self._stall, self._alive = make, stall, alive
        self._child: _Child | None = None
        self._shared: mmap.mmap | None = None

    def __enter__(self) -> "Decoder[Made]":
        cv2.setNumThreads(1)  # OpenCV's threads would not live on in the forked process
        return self

    def __exit__(self, *raised: object) -> None:
        self._end()

    def __call__(self, path: Location, inside: str | None, sha256: str | None, inverted: bool) -> Made:
        """What `make` returns for the bytes of `path`; inside and sha256 are those of `source.read`.

        Raises:
            RejectedImage: The file cannot be read, `make` raised it, or two processes died of it or took too long.
            UserError: A store fails, or memory may have been lacking.
        """
        return self._made(path, path.name, inverted, lambda: read_into(self._room, path, inside, sha256))

    def of_bytes(self, data: bytes, name: str) -> Made:
        """The same of a file that is in memory, and may be anybody's; its name is handed to `make`."""
        return self._made(name, name, False, lambda: put_into(self._room, data))

    def begin(self) -> None:
        """Fork now and not for the first image: while no other thread imports, as its locks would stay locked."""
        self._room(1)
        self._child = self._child or self._start()

    def _made(self, path: Location | str, name: str, inverted: bool, read: Callable[[], int]) -> Made:
        try:
            num_bytes = read()
        except MemoryError as error:
            raise _lack_of_memory(path, "MemoryError") from error
        try:
            try:
                return self._ask(self._make, num_bytes, name, inverted)
            except _DecoderLost:  # once more, alone in a new process
                return self._ask(self._make, num_bytes, name, inverted)
        except MemoryError as error:
            raise _lack_of_memory(path, "MemoryError") from error
        except (_DecoderLost, RejectedImage) as error:
            machine = isinstance(error, _DecoderLost) and error.machine
            if machine or "insufficient memory" in str(error).lower() or not self._has_room(num_bytes):
                raise _lack_of_memory(path, str(error)) from error
            raise error if isinstance(error, RejectedImage) else RejectedImage(str(error)) from error

    def _room(self, num_bytes: int) -> memoryview:
        """So many bytes of the shared memory."""
        if self._shared is None or num_bytes > len(self._shared):
            self._end()  # a process sees what was shared when it began
            try:
                self._shared = mmap.mmap(-1, max(_LEAST_BYTES, 2 * num_bytes))
            except OSError as error:
                raise MemoryError from error
        return memoryview(self._shared)[:num_bytes]

    def _has_room(self, num_bytes: int) -> bool:
        try:
            return self._ask(_has_room, num_bytes)
        except _DecoderLost:
            return True

    def _ask(self, function: Callable[..., Answer], num_bytes: int, *arguments: object) -> Answer:
        """What `function` returns in the child. Raises what it raised; _DecoderLost if the child ends or is late."""
        child = self._child = self._child or self._start()
        waited = 0.0
        try:
            child.connection.send((function is _has_room, num_bytes, arguments))
            while not child.news.poll(1000 * min(LOOK, self._stall - waited)):
                waited += LOOK  # not the clock: a stopped packer goes on as if nothing had been
                if waited >= self._stall:
                    self._end()
                    raise _DecoderLost(f"decoding takes too long: more than {self._stall:g} s")
                self._alive()
            error, answer = child.connection.recv()
        except (EOFError, OSError):
            raise _lost(self._end()) from None
        if error:
            raise error
        return answer

    def _start(self) -> _Child:
        ours, theirs = Pipe()
        parent = os.getpid()
        try:
            process = os.fork()
        except OSError as error:
            raise UserError(
                f"no process can be started to decode images in ({error.strerror}); give the same command again with "
                "fewer --jobs, or with more processes and memory (ulimit -u, ulimit -v)"
            ) from error
        if not process:
            assert self._shared is not None
            _serve(theirs, self._shared, self._make, parent)
        theirs.close()
        descriptor, news = os.pidfd_open(process), select.poll()
        for each in (descriptor, ours):
            news.register(each, select.POLLIN)
        return _Child(process, descriptor, ours, news)

    def _end(self) -> int:
        """End the child, if there is one; returns its exit code, that of its own end if it had ended before."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        os.kill(child.process, signal.SIGKILL)
        _, status = os.waitpid(child.process, 0)
        os.close(child.descriptor)
        child.connection.close()
        return os.waitstatus_to_exitcode(status)


def _lost(code: int) -> _DecoderLost:
    if code >= 0:
        return _DecoderLost(f"the decoder died: exit code {code}")
    number = signal.Signals(-code)
    return _DecoderLost(f"the decoder died: signal {number.value} ({number.name})", machine=number not in _FAULTS)


def _lack_of_memory(path: Location | str, reason: str) -> UserError:
    return UserError(
        f"{path}: cannot be decoded ({reason}), which may be a lack of memory and not the image's fault; give the "
        "same command again with more memory (ulimit -v, the limit of the batch job) or fewer --jobs"
    )


def _serve(connection: Connection, shared: mmap.mmap, make: Callable[..., object], parent: int) -> None:
    """The forked process; never returns."""
    try:
        ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)  # it would hold the packer's lock
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        faulthandler.disable()
        _keep_freed_memory()
        # of a server: a connection would stay open at its other end for as long as this process lives
        os.closerange(3, connection.fileno())
        os.closerange(connection.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print names no file; the reason for rejecting does
        while os.getppid() == parent:
            asks_for_room, num_bytes, arguments = connection.recv()
            send_answer(connection, _has_room if asks_for_room else make, shared[:num_bytes], *arguments)
    finally:
        os._exit(1)


def _keep_freed_memory() -> None:
    """Of glibc's malloc: arrays of one image are those of the next, where the kernel would make and clear every page
    anew, which takes longer than to shrink a radiograph."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for what in _MALLOC_LIMITS:
            mallopt(what, _KEPT_BYTES)


def _has_room(data: bytes) -> bool:
    """Whether there is the memory that decoding an image of this size may take. What is short of it looks damaged to
    some decoders, and kills others."""
    try:
        if data.startswith(b"\x89PNG"):
            width, height = struct.unpack(">II", data[16:24])
        elif image_kind(data) == "DICOM":
            height, width = height_and_width(data)
        else:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
        mmap.mmap(-1, min(height * width, MOST_PIXELS) * _BYTES_OF_A_PIXEL).close()
    except (OSError, MemoryError):
        return False
    except Exception:  # it is no image
        return True
    return True
