"""Input formats: one module each, which yields the `Candidate`s and `Drop`s of the extract stage.

```
input_files.py  size and hash of every input file
files.py        Files, settings common to all · Part, the unit of reading · patterns of file names
origin.py       keys, provenance and drops of a part's rows · RowError, why a row is dropped
lines.py        lines of plain and compressed files · items of one large JSON
tables.py       rows of parquet, csv, tsv and JSON by column names
delimited.py    csv and tsv: delimiter, quoting, header
captions.py     cleaning of captions, with the spans into them

url_table.py    LAION, Re-LAION, LAION-COCO, CapsFusion, COYO, CC3M, CC12M        pair
grit.py         GRIT                                                              grounded, pair
mmc4.py         MMC4                                                              interleaved
obelics.py      OBELICS, OmniCorpus                                               interleaved
mint.py         MINT-1T                                                           interleaved
curator.py      rows of NeMo Curator's interleaved tables                         interleaved
video_list.py   WebVid, HowTo100M, tables of videos                               video
storyboard.py   yt-dlp's storyboards and subtitles on disk                        video
conversations.py  LLaVA, ShareGPT, chat messages, Alpaca                          conversation
vqa.py          VQAv2, OK-VQA, GQA, TextVQA, VizWiz                               conversation
edits.py        InstructPix2Pix and its like                                      conversation
subjects.py     subjects cut from grounded pairs in tars                          conversation
turns.py        order of turns · attachments.py: images of a folder, archive or URL, for the first three
jsonl_text.py   The Pile, JSON Lines, text files                                  text
webdataset.py   our corpora, img2dataset's tars, plain pairs, MMC4 in base64      any
warc.py         pages that a crawl stored; the extract stage reads them like any crawl
warc_index.py   places of pages in archives of others
archived_page.py  parsed pages of WARC, WET and WAT records
```

A format is its settings' tag `format`, which selects the model in `SourceSettings`, and a row of `FORMATS`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from pipelines.document import Kind
from pipelines.sources import (
    attachments,
    conversations,
    curator,
    edits,
    grit,
    jsonl_text,
    mint,
    mmc4,
    obelics,
    storyboard,
    subjects,
    url_table,
    video_list,
    vqa,
    webdataset,
)
from pipelines.sources.files import CompanionFile, Part
from pipelines.sources.origin import Outcome

SourceSettings = Annotated[
    url_table.UrlTableSettings
    | grit.GritSettings
    | mmc4.Mmc4Settings
    | obelics.ObelicsSettings
    | mint.MintSettings
    | curator.CuratorSettings
    | video_list.VideoListSettings
    | storyboard.StoryboardSettings
    | jsonl_text.JsonlTextSettings
    | conversations.ConversationSettings
    | vqa.VqaSettings
    | edits.EditSettings
    | subjects.SubjectSettings
    | webdataset.WebDatasetSettings,
    Field(discriminator="format"),
]


@dataclass(frozen=True, slots=True)
class Format:
    """Abilities of a format: the kinds it yields, how its files are split, how a part is read.

    `companion_files` returns the files that are read together with those of the parts.
    """

    kinds: tuple[Kind, ...]
    parts: Callable[[Any], list[Part]]
    read: Callable[[Part, Any, str, Kind], Iterator[Outcome]]
    companion_files: Callable[[Any], list[CompanionFile]] = lambda settings: []


FORMATS: dict[str, Format] = {
    "url_table": Format(url_table.KINDS, url_table.parts, url_table.read, url_table.companion_files),
    "grit": Format(grit.KINDS, grit.parts, grit.read),
    "mmc4": Format(mmc4.KINDS, mmc4.parts, mmc4.read),
    "obelics": Format(obelics.KINDS, obelics.parts, obelics.read),
    "omnicorpus": Format(obelics.KINDS, obelics.parts, obelics.read),
    "mint": Format(mint.KINDS, mint.parts, mint.read),
    "curator": Format(curator.KINDS, curator.parts, curator.read),
    "video_list": Format(video_list.KINDS, video_list.parts, video_list.read),
    "storyboard": Format(storyboard.KINDS, storyboard.parts, storyboard.read, storyboard.companion_files),
    "jsonl_text": Format(jsonl_text.KINDS, jsonl_text.parts, jsonl_text.read),
    "conversations": Format(conversations.KINDS, conversations.parts, conversations.read, attachments.companion_files),
    "vqa": Format(vqa.KINDS, vqa.parts, vqa.read, vqa.companion_files),
    "edits": Format(edits.KINDS, edits.parts, edits.read, attachments.companion_files),
    "subjects": Format(subjects.KINDS, subjects.parts, subjects.read),
    "webdataset": Format(webdataset.KINDS, webdataset.parts, webdataset.read),
}
