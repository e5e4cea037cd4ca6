"""Edits of images: InstructPix2Pix and its like, as conversations in which the assistant draws.

The user shows an image and says what to change; the assistant answers with the changed image.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from pipelines.document import Kind
from pipelines.sources.attachments import Attachments, WithAttachments
from pipelines.sources.files import Part
from pipelines.sources.origin import Origin, Outcome, RowError, convert_rows
from pipelines.sources.tables import open_table, table_parts
from pipelines.sources.turns import Turn, conversation, words
from pipelines.sources.url_table import find_columns, record_id

KINDS: tuple[Kind, ...] = ("conversation",)
_NEEDED = ("before", "instruction", "after")

# Content of a column, by the lower-case names that data sets give it.
_ALIASES: dict[str, tuple[str, ...]] = {
    "before": ("original_image", "input_image", "source_image", "source_img", "before"),
    "instruction": ("edit_prompt", "edit", "instruction", "edit_instruction"),
    "after": ("edited_image", "output_image", "target_image", "target_img", "after"),
}


class EditSettings(WithAttachments):
    """Images before and after an edit, with the instruction."""

    format: Literal["edits"] = "edits"
    part_rows: int = Field(500, gt=0, description="Rows of a part of a JSON array, or of several row groups")
    columns: dict[str, str] = Field(
        default={}, description="Column for before, instruction and after, if several match or none is known"
    )
    system: str | None = Field(None, description="System turn before each edit; null: none")
    generator: str | None = Field(None, description="Model that made the images after the edit; null: none did")


def parts(settings: EditSettings) -> list[Part]:
    """Split the lists at row groups, lines or items."""
    return table_parts(settings, split_items=True)


def read(part: Part, settings: EditSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one conversation per row.

    Raises:
        UserError: If a needed column is missing or ambiguous.
    """
    table = open_table(part, where=settings.where, has_header_setting=False)
    columns: dict[str, str] = {}
    if table.columns:
        columns = find_columns(part.path, table.columns, settings.columns, _NEEDED, _ALIASES)
    found = Attachments(settings)

    def convert(origin: Origin, locator: str, row: dict[str, Any]) -> list[Outcome]:
        instruction = row.get(columns["instruction"])
        said = words(instruction) if isinstance(instruction, str) else []
        if not said:
            raise RowError("missing_text", "no instruction")
        before, after = (found.image(row.get(columns[name])) for name in ("before", "after"))
        turns = [Turn("user", (before, *said)), Turn("assistant", (after,))]
        made_by = settings.generator
        return [conversation(origin, locator, turns, system=settings.system, generator=made_by, record=record_id(row))]

    return convert_rows(Origin(source_name, kind, part, settings), table.rows, convert)
