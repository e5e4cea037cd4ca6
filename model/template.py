"""Settings of the templates by which tuned models read samples and prompts, and the name of their file.

The templates themselves are written by the trainer (model/template_layout.py); a tuned model carries their settings.
"""

from typing import Literal

from pydantic import Field

from model.config import Config

TEMPLATE = "template.json"
"""Name of the file of template settings, in the folder of a tuned model."""

Form = Literal["chat", "emu", "generation"]


class TemplateSettings(Config):
    """Settings of the template by which tuning cuts samples."""

    form: Form = Field(
        "chat", description="form of the template: chat for Emu2-Chat, emu for Emu-I, generation for Emu2-Gen"
    )
    system: str | None = Field(None, description="message before a conversation; null: the released one")
    instructions: tuple[str, ...] = Field(
        ("Describe the image.",),
        min_length=1,
        description="questions of the user about an image, whose caption is the answer; one is chosen by the caption",
    )

    draws: bool = Field(
        False, description="whether images are learned as answers in conversations too; form generation has no others"
    )

    @property
    def chats(self) -> bool:
        """True for conversations, whose two sides have their own tokens."""
        return self.form != "generation"
