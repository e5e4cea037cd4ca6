"""Fixture of the tests of browsing: one corpus, which none of them changes."""

import pytest

from tests.tools.browse.corpus import hostile_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a corpus of all kinds with samples that attack a page."""
    folder = str(tmp_path_factory.mktemp("hostile"))
    hostile_corpus(folder)
    return folder
