"""Serving the live page: on this machine alone, under a policy that lets nothing out, until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
import threading
from dataclasses import dataclass
from typing import Any

from dash import Dash
from flask import Response, abort, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from locate.errors import LocateError
from locate.explorer.state import TOKEN

HOST = "127.0.0.1"
HOSTS = [HOST, "localhost"]
UPDATE = "_dash-update-component"


class Quiet(WSGIRequestHandler):
    """A handler that does not write every request to the terminal."""

    def log_request(self, *arguments: Any) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Page:
    """A live page that is being served.

    url     to open in a browser on this machine
    server  what serves it, in a thread of its own
    socket  that it listens on
    """

    url: str
    server: BaseWSGIServer
    socket: socket.socket

    def close(self) -> None:
        """Stop serving it."""
        self.server.shutdown()
        self.server.server_close()
        self.socket.close()

    def _repr_html_(self) -> str:
        return f'<a href="{self.url}" target="_blank" rel="noopener">{self.url}</a>'


def guard(app: Dash, token: str) -> None:
    """Refuse foreign Host headers (400), and requests without the token (403); send a policy with every answer.

    token  "" where none is needed
    """
    app.server.config["TRUSTED_HOSTS"] = HOSTS
    scripts = " ".join(f"'{each}'" if not each.startswith("'") else each for each in app.csp_hashes())
    policy = (
        f"default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: "
        "blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )

    cookie = f"{TOKEN}-{secrets.token_hex(6)}"  # cookies ignore ports, and another page may be served beside this one

    @app.server.before_request
    def refuse() -> None:
        _ = request.host  # raises where the host is foreign
        given = request.args.get(TOKEN) or request.cookies.get(cookie, "")
        if token and not secrets.compare_digest(given.encode(), token.encode()):
            abort(403)
        if request.path.endswith(UPDATE) and not is_asked(app, request.get_json(silent=True)):
            abort(400)

    @app.server.after_request
    def protect(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if token and request.args.get(TOKEN):
            response.set_cookie(cookie, token, httponly=True, samesite="Strict")
        return response


def is_asked(app: Dash, content: Any) -> bool:
    """Whether a request is one that the page itself makes: for what a callback of it gives, from lists of inputs."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("output"), str)
        and content["output"] in app.callback_map
        and isinstance(content.get("outputs"), dict | list)
        and all(isinstance(content.get(name, []), list) for name in ("inputs", "state", "changedPropIds"))
    )


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(18)


def serve(app: Dash, port: int, query: str) -> Page:
    """Serve an app in a thread.

    port   0 for any that is free
    query  of the address that opens it

    Raises LocateError where the port cannot be had.
    """
    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise LocateError(f"port {port} of {HOST} cannot be had ({error}): choose another with --port, or 0") from error
    number = listening.getsockname()[1]
    server = make_server(HOST, number, app.server, threaded=True, request_handler=Quiet, fd=listening.fileno())
    threading.Thread(target=server.serve_forever, daemon=True, name="locate-explorer").start()
    return Page(f"http://{HOST}:{number}/{query}", server, listening)
