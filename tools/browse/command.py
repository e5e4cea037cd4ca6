"""The command: serve a corpus on an address of this machine, or write a part of it as files."""

import contextlib
import ipaddress
import os
import sys
import threading

from pipelines.command_line import printable
from pipelines.errors import UserError
from pipelines.shards.manifest import load_manifest
from tools.browse.app import Browser, make_app
from tools.browse.training import RunRecord
from tools.serving import LOOPBACK, listening, serve_until_stopped


def browse(corpus: str, run: str | None, host: str, port: int) -> None:
    """Serve the pages of a corpus until Ctrl-C.

    Args:
        corpus: Its folder, local or an fsspec URL.
        run: Folder of a run that was trained on it, or None.
        host: Name or address to listen on.
        port: Port; 0 takes any free one.

    Raises:
        UserError: If there is no corpus, the run is of another one, or the address cannot be used.
    """
    manifest = load_manifest(corpus)
    record = None if run is None else RunRecord(run, corpus, manifest)
    with listening(host, port) as listener:
        browser = Browser(corpus, manifest, record)
        address, used_port = listener.getsockname()[:2]
        is_loopback = ipaddress.ip_address(address).is_loopback
        app = make_app(browser, sorted({*LOOPBACK, host.lower(), address}) if is_loopback else None)
        with contextlib.suppress(UserError):  # a page says so
            browser.catalogue()
        shown = f"[{host}]" if ":" in host else host
        if not is_loopback:
            print("warning: whoever reaches this address can see the whole corpus", file=sys.stderr)
        print(f"{printable(corpus)}: http://{shown}:{used_port}/ until Ctrl-C", flush=True)
        browser.prepare()
        try:
            serve_until_stopped(app, listener)
        finally:
            browser.close()
    print("stopped", flush=True)
    if any(thread.daemon for thread in threading.enumerate()):
        os._exit(0)  # what a thread is at is written whole or not at all, and may take long
