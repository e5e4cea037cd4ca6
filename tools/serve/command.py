"""The command: serve a finished run on an address of this machine."""

import ipaddress
from pathlib import Path

import model
from model.errors import WeightsError
from pipelines.command_line import printable
from pipelines.errors import UserError
from tools.serve.api import Service, make_api
from tools.serve.limits import Limits
from tools.serving import LOOPBACK, listening, serve_until_stopped


def serve(run: str, host: str, port: int, key_file: str | None, limits: Limits, *, with_page: bool = True) -> None:
    """Serve a finished run until Ctrl-C.

    Args:
        run: Its folder.
        host: Name or address to listen on.
        port: Port; 0 takes any free one.
        key_file: File with the key that requests must carry; None: none is needed.
        limits: What a request may ask for.
        with_page: Whether to serve the page too.

    Raises:
        UserError: If the run has no weights, the address cannot be used, or it is not this machine's alone and there
            is no key.
    """
    key = None if key_file is None else _read_key(key_file)
    with listening(host, port) as listener:
        address, used_port = listener.getsockname()[:2]
        is_loopback = ipaddress.ip_address(address).is_loopback
        if not is_loopback and key is None:
            raise UserError(f"--host {host}: others reach this address: give --key-file, a file with a key of your own")
        try:
            loaded = model.load(run)
        except WeightsError as error:
            raise UserError(str(error)) from error
        service = Service(loaded, Path(run).resolve().name, limits)
        app = make_api(service, key=key, hosts=sorted({*LOOPBACK, host.lower(), address}) if is_loopback else None)
        if with_page:
            from tools.serve.page import add_page

            app = add_page(app, service, key)
        shown = f"[{host}]" if ":" in host else host
        print(f"{printable(run)}: http://{shown}:{used_port}/ until Ctrl-C", flush=True)
        serve_until_stopped(app, listener)
    print("stopped", flush=True)


def _read_key(path: str) -> str:
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--key-file {path}: {getattr(error, 'strerror', None) or 'not a text'}") from error
    if len(key) < 16 or any(character.isspace() for character in key):
        raise UserError(f"--key-file {path}: a key has at least 16 characters, none of them white space")
    return key
