"""A folder over HTTP: `python -m aiohttp.web -H 127.0.0.1 -P 8701 pipelines.running.folder_app:folder_app FOLDER`."""

from aiohttp import web


def folder_app(arguments: list[str]) -> web.Application:
    """Return the application that serves the folder given as only argument."""
    (folder,) = arguments
    app = web.Application()
    app.router.add_static("/", folder)
    return app
