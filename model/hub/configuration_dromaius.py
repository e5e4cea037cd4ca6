"""Settings of a model, as `AutoConfig` reads them.

This file is part of exported models, beside copies of the modules that it imports.
"""

from typing import Any, ClassVar

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from model.config import EmuConfig


class DromaiusConfig(PreTrainedConfig):
    """Settings of an exported model.

    Args:
        emu: Settings of the model, as in its run's `model/config.json`.
        text_config: Settings of its language model, as transformers has them.
        image_token_id: Id of the token in whose place a visual embedding stands.
        image_start_token_id: Id of the token after which an image is predicted.
    """

    model_type = "dromaius"
    sub_configs: ClassVar[Any] = {"text_config": AutoConfig}

    def __init__(
        self,
        emu: dict[str, Any] | None = None,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        image_token_id: int | None = None,
        image_start_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.emu = emu or {}
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config or LlamaConfig()
        self.image_token_id = image_token_id
        self.image_start_token_id = image_start_token_id
        super().__init__(**kwargs)

    @property
    def model(self) -> EmuConfig:
        """Settings of the model."""
        return EmuConfig.model_validate(self.emu)
