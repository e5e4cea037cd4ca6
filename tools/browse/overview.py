"""The facts on the overview: those of the card, read when they are first asked for, and kept."""

import json
from typing import Any

from pipelines import storage
from tools.browse.lookup import Lookup
from tools.card.facts import facts_from


def read_facts(lookup: Lookup) -> dict[str, Any]:
    """Return the facts of a corpus by name: those that were kept, if its files are still the same.

    Args:
        lookup: Its look-up files.

    Raises:
        UserError: If a file is missing or damaged.
    """
    path = lookup.facts()
    if storage.exists(path):
        try:
            found: dict[str, Any] = json.loads(storage.read_bytes(path))
            return found
        except ValueError:  # damaged: it is read anew
            storage.remove(path)
    with lookup.building() as tables:
        found = dict(facts_from(tables, lookup.corpus))
        storage.write_bytes(path, json.dumps(found).encode())  # in here, so that who stops waits for it
    return found
