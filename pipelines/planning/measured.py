"""Measured constants by which a plan computes, each with the figure of `tools/bench/RESULTS.md` that it is.

They are of one machine at one time. A test holds the heads of the ready specs against what these constants give.
"""

from typing import NamedTuple


class Measured(NamedTuple):
    """A measured value with its unit, and the section and row of `tools/bench/RESULTS.md` that state it."""

    value: float
    unit: str
    source: str


PAGES = Measured(158, "pages parsed per second and core", "stages: pages of 11 kB parsed into documents")
TEXTS = Measured(237, "texts judged per second and core", "stages: texts of 2,892 characters judged and masked")
IMAGES = Measured(80, "images per second and core", "fetch: http, less start, 160 images/s on two cores")
IMAGE_BYTES = Measured(163_000, "bytes of an image as fetched", "fetch: mean of the images")
STORED_IMAGE_BYTES = Measured(75_400, "bytes of a stored image, shorter side 448", "disk: an image in the raw store")
FILM = Measured(6.93, "seconds of film decoded per second of a core", "video: seconds of film, ours, films of 720p")
TEXT_ROWS = Measured(616, "texts moved through all stages per second and core", "growth: processor time of 4,000 texts")
WORK_PER_BYTE = Measured(1.3, "bytes in work/ per byte of documents", "growth: work/ at the end, less the raw store")
TAR_OVERHEAD = Measured(3_900, "bytes of a tar and its indexes per document", "disk: tars, without images and text")
PROCESS_MEMORY = Measured(204e6, "bytes of memory of the largest process", "growth: largest process, less its rows")
ROW_MEMORY = Measured(170, "further bytes of it per document", "growth: largest process, by difference")
SITE_FILES = 3
"""Requests to each host before the first image: robots.txt, tdmrep.json, ai.txt (`web/site_rules.py`)."""
SMALL_SAMPLE = 5
"""Requests of a host in a sample below which its share says little; it is taken for that many."""
