"""`cxrdali serve`: one process that listens on one address, with one run in memory."""

import errno
import logging
import signal
import socket
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from cxrdali.predict.options import JudgeOptions
from cxrdali.runs.reader import Run
from cxrdali.serve.options import LOCAL, ServeOptions
from shards.errors import UserError
from shards.words import counted

if TYPE_CHECKING:
    import uvicorn

    from cxrdali.serve.app import Application

log = logging.getLogger(__name__)

MOST_HEADER_BYTES = 65_536


def serve(run: Run, options: ServeOptions, judging: JudgeOptions) -> None:
    """Serve a run until the process is told to end.

    Raises UserError if packages are missing, the address cannot be had, or the run cannot judge.
    """
    try:
        import python_multipart  # noqa: F401  starlette finds out at the first form
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"serve: {error}; install what it needs with pip install 'cxrdali[serve]'") from None

    with listening(options) as door, ExitStack() as held:
        from cxrdali.serve.app import Application  # after the port is had: this takes seconds
        from cxrdali.serve.reader import Reader

        reader = held.enter_context(Reader(run, judging, options.seconds))
        if options.host not in LOCAL:
            log.info(
                f"warning: whoever reaches {options.host} can send images and see what comes back: there is no login, "
                "and nothing is encrypted; leave --host out to listen to this machine alone (from elsewhere: ssh -L)"
            )
        host = f"[{options.host}]" if ":" in options.host else options.host
        reads = f"{reader.name} reads {counted(len(reader.findings), 'finding')}"
        log.info(f"http://{host}:{door.getsockname()[1]}/  {reads}; Ctrl-C ends it")
        # uvicorn ends, then raises the signal again: by default that ends the process, whatever its threads do
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        server_of(Application(reader, options), options.seconds).run(sockets=[door])


def listening(options: ServeOptions) -> socket.socket:
    """A socket that listens. Raises UserError if the address cannot be had."""
    where = f"{options.host} port {options.port}"
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family)
    except (OSError, UnicodeError) as error:
        fix = "give one of this machine's own addresses with --host"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            fix = "another program listens there; end it, or give another --port (0 takes a free one)"
        elif isinstance(error, PermissionError):
            fix = "ports below 1024 are mostly the administrator's; give another --port, as 8000"
        raise UserError(f"{where}: {_in_words(error)}; {fix}") from None


def _in_words(error: OSError | UnicodeError) -> str:
    said = error.strerror if isinstance(error, OSError) else str(error)
    return (said or "cannot be had").partition(" (while ")[0]  # Python names the address once more


def server_of(application: "Application", seconds: float) -> "uvicorn.Server":
    """What runs the application on a socket."""
    import uvicorn

    from cxrdali.serve.guard import Connection

    # h11, in Python: httptools, where it is installed, bounds no header. Log: `cxrdali.serve.guard` has its own
    config = uvicorn.Config(
        application.asgi(), http=partial(Connection, seconds), ws="none", loop="asyncio", lifespan="off",
        interface="asgi3", log_config=None, log_level="critical", access_log=False, proxy_headers=False,
        server_header=False, h11_max_incomplete_event_size=MOST_HEADER_BYTES, timeout_graceful_shutdown=0,
    )  # fmt: skip
    return uvicorn.Server(config)
