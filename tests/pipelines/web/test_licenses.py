"""Tests of converting licence statements to SPDX ids."""

import pytest

from pipelines.web.licenses import license_id


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("https://creativecommons.org/licenses/by-sa/4.0/", "CC-BY-SA-4.0"),
        ("http://creativecommons.org/licenses/by/3.0/de/", "CC-BY-3.0-DE"),
        ("//creativecommons.org/licenses/by-nc-nd/4.0/deed.de", "CC-BY-NC-ND-4.0"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode.en", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by-nd-nc/1.0/", "CC-BY-NC-ND-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("https://www.gnu.org/licenses/old-licenses/fdl-1.2.html", "GFDL-1.2"),
        ("CC BY-NC-SA 4.0", "CC-BY-NC-SA-4.0"),
        ("CC-BY-SA-3.0-AT", "CC-BY-SA-3.0-AT"),
        ("licensed under CC0", "CC0-1.0"),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "CC-BY-SA-4.0"),
        ("Creative Commons Attribution-NonCommercial-NoDerivatives 4.0", "CC-BY-NC-ND-4.0"),
        ("Creative Commons Attribution license (reuse allowed)", "CC-BY-3.0"),  # YouTube's wording
        ("Creative Commons Attribution licence (reuse allowed)", "CC-BY-3.0"),
        ("Creative Commons Attribution license", None),
        ("Standard YouTube License", None),
        ("CC BY", None),  # which version?
        ("https://creativecommons.org/licenses/sampling+/1.0/", None),
        ("All rights reserved", None),
        ("https://example.org/licenses/by/4.0/", None),
        ("", None),
    ],
)
def test_license_ids(statement: str, expected: str | None) -> None:
    assert license_id(statement) == expected
