"""The verb that opens the explorer."""

import argparse
import socket
import threading
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from show_attend_tell.cli.common import Verbs, add_verb, say
from show_attend_tell.errors import UserError
from show_attend_tell.files import check_target, user_path

if TYPE_CHECKING:
    import uvicorn

    from show_attend_tell.explorer.explorer import Explorer
    from show_attend_tell.inference.run import Run

DEFAULT = ("flickr8k-soft", "flickr8k-hard")  # explored if no run is named
BROWSED, EXPORTED = 200, 12  # default numbers of pictures


def add_verbs(verbs: Verbs) -> None:
    """Adds the verb of this module."""
    explore = add_verb(
        verbs,
        "explore",
        _explore,
        "Serve a web page that shows where runs look, and lets you intervene.",
    )
    explore.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a packaged model, a run, an exported model, OWNER/NAME on the hub, or a folder of "
        f"training runs to watch (default: {' '.join(DEFAULT)})",
    )
    explore.add_argument("--split", default="test", help="split to browse (default: test)")
    explore.add_argument(
        "--num", type=int, metavar="N", help=f"pictures to browse (default: {BROWSED})"
    )
    explore.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    explore.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any but the default lets other machines connect "
        "(default: 127.0.0.1)",
    )
    explore.add_argument(
        "--export",
        type=user_path,
        metavar="FILE.html",
        help=f"write one HTML file that needs no server, then exit (default --num: {EXPORTED})",
    )


def _explore(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.data.load import SPLITS
    from show_attend_tell.explorer.explorer import open_explorer

    if arguments.num is not None and arguments.num < 1:
        raise UserError(f"--num {arguments.num}: must be 1 or more")
    if arguments.split not in SPLITS:
        raise UserError(f"--split {arguments.split}: choose one of {', '.join(SPLITS)}")
    exports = arguments.export is not None
    if exports:
        check_target(arguments.export)
    listening = None if exports else _listen(arguments.host, arguments.port)
    asked, watched = _sorted(arguments.runs or DEFAULT)
    if overrides and not asked:
        raise UserError(f"{overrides[0]}: no run with weights is named that it could change")
    count = arguments.num or (EXPORTED if exports else BROWSED)
    explorer = open_explorer(
        _loaded(asked, overrides),
        split=arguments.split,
        count=count,
        live=bool(watched) and not exports,
    )
    if explorer.session.hint:
        say(f"note: {explorer.session.hint}", error=True)
    if exports:
        _export(explorer, arguments.export, count)
    else:
        assert listening is not None
        _serve(explorer, watched, listening)


def _sorted(given: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Sorts the named runs into runs to ask and folders to watch.

    A folder with a config and weights is asked. Every folder but an exported model is watched: it
    is a run or holds some. Any other name is asked: it is a packaged model, or loading it says what
    is wrong.
    """
    from show_attend_tell import pretrained
    from show_attend_tell.runs.folder import RunFolder

    asked, watched = [], []
    for name in given:
        folder = RunFolder(user_path(name))
        if name in pretrained.names() or not folder.path.is_dir():
            asked.append(name)
            continue
        if folder.has_config and folder.has_weights:
            asked.append(name)
        elif folder.has_config:
            say(f"{name}: no weights yet, so it is only watched", error=True)
        if folder.exported_weights is None:
            watched.append(folder.path)
    return asked, watched


def _loaded(given: Sequence[str], overrides: Sequence[str]) -> "dict[str, Run]":
    """The loaded runs by the name of their folder, or by path where that name is taken."""
    from show_attend_tell import pretrained

    runs: dict[str, Run] = {}
    for path in given:
        run = pretrained.load(path, overrides)
        folder = run.workdir.resolve()
        if any(folder == other.workdir.resolve() for other in runs.values()):
            raise UserError(f"{path}: the same run is given twice; name each run once")
        free = next(name for name in (folder.name, path, str(folder)) if name not in runs)
        runs[free] = run
    return runs


def _listen(host: str, port: int) -> socket.socket:
    """Opens the socket before runs are loaded: loading takes seconds, the port may be in use."""
    try:
        [family, *_], *_ = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
        return socket.create_server((host, port), family=family, reuse_port=False)
    except socket.gaierror as error:
        raise UserError(
            f"--host {host}: {error.strerror}; give a name or an address of this machine"
        ) from error
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"port {port} of {host}: {why}; choose another with --port") from error


def _export(explorer: "Explorer", path: Path, count: int) -> None:
    from show_attend_tell.explorer.export import export

    ids = [facts.id for facts in explorer.pictures.examples][:count]
    if explorer.browsing is not None:
        ids = explorer.browsing.ids
        explorer.browsing.start()
        explorer.browsing.wait()
    size = export(explorer, path, ids)
    say(f"{path}: {len(ids)} pictures, {size / 1e6:.1f} MB; open it in a browser")


def _serve(explorer: "Explorer", watched: Sequence[Path], listening: socket.socket) -> None:
    import uvicorn

    from show_attend_tell.explorer.live import Watch
    from show_attend_tell.explorer.server import LOCAL, make_app

    watch = Watch(watched) if watched else None
    host, port = listening.getsockname()[:2]
    # A server for other machines has names that cannot be listed here.
    names = {*LOCAL, _in_addresses(host)} if ip_address(host).is_loopback else None
    app = make_app(explorer, watch, names)
    # An open stream of events must not keep the server alive.
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, lifespan="off")
    )
    threading.Thread(target=_begin, args=(explorer, server, host, port), daemon=True).start()
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # the way to end it
        say("")
    finally:
        explorer.stop()
        if watch is not None:
            watch.close()


def _begin(explorer: "Explorer", server: "uvicorn.Server", host: str, port: int) -> None:
    """Prints the address once the server answers, then starts the work in the background."""
    while not server.started:
        time.sleep(0.01)
    say(f"open http://{_in_addresses(host)}:{port} (Ctrl-C ends it)")
    explorer.start()


def _in_addresses(host: str) -> str:
    return f"[{host}]" if ":" in host else host
