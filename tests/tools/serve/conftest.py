"""A server with a run of the debug size and random weights, on a real socket."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import uvicorn

import model
from model.loaded_model import LoadedModel
from model.template import TemplateSettings
from tests.trainer import small_corpus
from tests.trainer.finished_runs import write_run
from tools.serve.api import Service, make_api
from tools.serve.limits import Limits
from tools.serve.page import add_page
from tools.serving import LOOPBACK

KEY = "a key of many letters"
LIMITS = Limits(body=1 << 20, images=3, pixels=10_000, new_tokens=400, drawn=2, waiting=2)


@pytest.fixture(scope="session")
def training_corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus of five sources, with tokens."""
    return small_corpus.build(tmp_path_factory.mktemp("training") / "corpus")


@pytest.fixture(scope="session")
def run_folder(training_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    write_run(folder, training_corpus)
    return folder


@pytest.fixture(scope="session")
def loaded(run_folder: Path) -> LoadedModel:
    return model.load(run_folder)


@pytest.fixture(scope="session")
def chatting(training_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The model as if it had been tuned for conversations."""
    folder = tmp_path_factory.mktemp("chatting")
    write_run(folder, training_corpus, template=TemplateSettings(form="chat", system="Answer."))
    return model.load(folder)


@contextlib.contextmanager
def serving(loaded: LoadedModel, *, key: str | None = None, with_page: bool = False) -> Iterator[str]:
    """Serve a model; yield its address."""
    service = Service(loaded, "debug", LIMITS)
    app = make_api(service, key=key, hosts=LOOPBACK)
    if with_page:
        app = add_page(app, service, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lifespan: Literal["on", "off"] = "on" if with_page else "off"
        config = uvicorn.Config(app, log_level="warning", lifespan=lifespan, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
