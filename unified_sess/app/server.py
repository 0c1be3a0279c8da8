"""Serving the page from this machine."""

import contextlib
import importlib.util
import logging
import math
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from unified_sess.app.storage import storage
from unified_sess.app.tasks import TaskQueue
from unified_sess.inference.files.tracks import check_voices
from unified_sess.inference.voices.speakers import SpeakerNetwork
from unified_sess.utils.errors import UserError, ended_gently

HOST = "127.0.0.1"  # this machine alone
PORTS = range(7860, 7880)  # tried in this order where none is given
MAX_SIZE = 1000  # MB of an upload
PATIENCE = 2  # s that open connections have in the end
SHIPPED = "The model that ships"


def serve(
    models: Sequence[str],
    host: str = HOST,
    port: int | None = None,
    max_size: float = MAX_SIZE,
    device: str | None = None,
    voices: SpeakerNetwork | None = None,
) -> None:
    """Serve the page until Ctrl-C; then everything that was uploaded or made is deleted.

    Arguments
    ---------
    models : sequence of str
        Exported folders, results folders or hub ids to choose from; none takes the model that ships.
    host : str
        Address to listen on; what the environment says for Gradio does not count.
    port : int
        Or 0 for any that is free; None takes the first free one from 7860.
    max_size : float
        Largest upload in MB.
    device : str
        `cpu`, `cuda`, ...; None takes a GPU where there is one.
    voices : SpeakerNetwork
        Recognises voices in the place of the network that ships; None takes that.

    Raises
    ------
    UserError
        Where Gradio is missing, the address is taken, a model cannot be loaded, or voices do not decide with it.
    """
    if not 0 < max_size < math.inf:
        raise UserError(f"--max-size {max_size:g}: give a number of MB above 0")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install gradio (the extra `app`)")
    with ended_gently(), contextlib.closing(_listen(host, port)) as listener, storage() as folder:
        networks = _load(models, device)
        for network in networks.values():
            check_voices(voices, network)
        with TaskQueue() as queue:
            server = _server(networks, folder, queue, voices, max_size)
            print(f"unified-sess app: {_address(host, listener)} (Ctrl-C ends it)", flush=True)
            with contextlib.suppress(KeyboardInterrupt), _ends_quietly(server):
                server.run([listener])
    print("unified-sess app: ended, uploads and results are deleted")


def _listen(host, port):
    """A socket that listens on an address."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(
            f"--host {host} is no address of this machine: 127.0.0.1 serves it alone, 0.0.0.0 all"
        ) from None
    for number in PORTS if port is None else [port]:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((place[0], number))
            listener.listen()  # who comes before the page is ready waits for it
            return listener
        except (OSError, OverflowError) as error:
            listener.close()
            reason = getattr(error, "strerror", None) or error
    raise UserError(f"cannot listen on {host}, port {number} ({reason}): give another --host or --port")


def _address(host, listener):
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def _load(models, device):
    """`Separator` by the name that people choose."""
    from unified_sess.inference.separating import Separator

    networks = {}
    for source in models or [None]:
        name = SHIPPED if source is None else Path(source).name or source
        networks[source if name in networks else name] = Separator.load(source, device)
    return networks


def _server(networks, folder, queue, voices, max_size):
    """The page as a server of uvicorn that is not started yet."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio reads these when it is imported
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    tempfile.tempdir = str(folder)
    import gradio
    import uvicorn
    from fastapi import FastAPI

    from unified_sess.app.page import CSS, THEME, build_page
    from unified_sess.app.sessions import Sessions

    page = build_page(Sessions(networks, folder, queue, voices))
    options = {"theme": THEME, "css": CSS, "max_file_size": round(max_size * 1e6), "run_history": False}
    plain = {"footer_links": [], "ssr_mode": False, "mcp_server": False, "enable_monitoring": False, "pwa": False}
    application = gradio.mount_gradio_app(FastAPI(openapi_url=None), page, path="/", **options, **plain)
    # Only of a page that was launched does Gradio refuse files that nobody uploaded; a mounted one would read any.
    page.has_launched = True
    return uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=PATIENCE))


@contextlib.contextmanager
def _ends_quietly(server):
    """Tabs that are open when the page ends are cut off, each with a traceback that nobody needs."""
    log = logging.getLogger("uvicorn.error")

    def runs(record):
        return not server.should_exit

    log.addFilter(runs)
    try:
        yield
    finally:
        log.removeFilter(runs)
