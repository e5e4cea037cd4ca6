"""A model as `AutoModelForCausalLM` loads it: logits, visual embeddings, and generation of both.

This file is part of exported models, beside copies of the modules that it imports.

B prompts, L tokens, V vocabulary, N images, S pixels per side, R visual embeddings per image, E their width
"""

import tempfile
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from model.config import EmuConfig
from model.emu import Emu
from model.hub.configuration_dromaius import DromaiusConfig
from model.language_model import backbone, token_logits
from model.shapes import shapes_only
from model.step_runner import StepRunner


@dataclass
class DromaiusOutput(CausalLMOutputWithPast):
    """Logits, and what the model predicts in place of a token.

    Attributes:
        visual_embeddings: (B, L, E) prediction of the visual embedding at the next position; None if not asked for.
    """

    visual_embeddings: Tensor | None = None


class DromaiusForCausalLM(PreTrainedModel, GenerationMixin):
    """Vision encoder, bridge and language model."""

    config: DromaiusConfig
    config_class = DromaiusConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: DromaiusConfig) -> None:
        super().__init__(config)
        self.model = _build(config)
        if config.tie_word_embeddings:
            names = {id(part): f"{name}.weight" for name, part in self.named_modules()}
            table, logits = (names[id(part)] for part in (self.get_input_embeddings(), self.get_output_embeddings()))
            self._tied_weights_keys = {logits: table}
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of tokens."""
        found: nn.Module = self.model.language_model.get_input_embeddings()
        return found

    def get_output_embeddings(self) -> nn.Module:
        """Return the layer of logits."""
        found: nn.Module = self.model.language_model.get_output_embeddings()
        return found

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return the visual embeddings of images: (N, 3, S, S) uint8 -> (N, R, E)."""
        found: Tensor = self.model.encode_images(pixel_values)
        return found

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_visual_embeddings: bool = False,
        **kwargs: Any,
    ) -> DromaiusOutput:
        """Return the logits of the next tokens, and the visual embeddings if asked for.

        Args:
            input_ids: (B, L) with as many `image_token_id` as the images have embeddings.
            attention_mask: (B, L or more) 1 for tokens, 0 for padding, which is on the left.
            position_ids: (B, L); not given: counted by the mask.
            past_key_values: Cache of keys and values.
            inputs_embeds: (B, L, width) in place of `input_ids`.
            pixel_values: (N, 3, S, S) uint8, the images of all rows in their order.
            labels: (B, L) tokens to learn, -100 elsewhere.
            use_cache: Whether to return the cache.
            logits_to_keep: Positions at the end of which logits are computed; 0: all.
            output_visual_embeddings: Whether to return the predicted visual embeddings.
            **kwargs: Unused.

        Raises:
            ValueError: If the number of images does not match the tokens.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self._embed(input_ids, pixel_values)
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        language_model = self.model.language_model
        output = backbone(language_model)(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        hidden = output.last_hidden_state  # (B, L, width)
        logits = token_logits(language_model, hidden[:, -logits_to_keep:] if logits_to_keep else hidden)  # (B, L, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        visual = self.model.bridge.project_down(hidden) if output_visual_embeddings else None
        found: dict[str, Any] = {"loss": loss, "logits": logits, "past_key_values": output.past_key_values}
        return DromaiusOutput(**found, visual_embeddings=visual)

    @torch.no_grad()
    def generate_image_embeddings(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, pixel_values: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Return the visual embeddings of the images that prompts ask for, each fed back as it is predicted: (B, R, E).

        Args:
            input_ids: (B, L) that end with `image_start_token_id`; see the processor's `draw`.
            attention_mask: (B, L), as for `forward`.
            pixel_values: (N, 3, S, S), as for `forward`.
            **kwargs: Unused.
        """
        lengths = torch.full((len(input_ids),), input_ids.shape[1], device=input_ids.device)
        runner = StepRunner(
            self.model.language_model,
            lengths if attention_mask is None else attention_mask.sum(-1),
            use_cache=True,
            room=self.model.config.bridge.image_slots if input_ids.is_cuda else None,
        )
        x, found = self._embed(input_ids, pixel_values), []
        for _ in range(self.model.config.bridge.image_slots):
            found.append(self.model.bridge.project_down(runner.step(x)))
            x = self.model.bridge.project_up(found[-1])[:, None].to(x.dtype)
        return torch.stack(found, dim=1)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the inputs of a step, of which only the first one reads the images."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]
        if not kwargs.get("is_first_iteration", False) and kwargs.get("use_cache", True):
            inputs["pixel_values"] = None
        return inputs

    def _embed(self, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        """Return the inputs of the language model: (B, L, width)."""
        assert self.config.image_token_id is not None
        slots = input_ids.eq(self.config.image_token_id).flatten().nonzero()[:, 0]
        if pixel_values is None:
            if len(slots):
                raise ValueError(f"{len(slots)} image tokens, but no pixel_values: give the processor the images")
            found: Tensor = self.get_input_embeddings()(input_ids)
            return found
        embeddings = self.get_image_features(pixel_values).flatten(0, 1)
        if len(slots) != len(embeddings):
            raise ValueError(f"{len(slots)} image tokens, but {len(pixel_values)} images of {len(embeddings)} in all")
        inputs: Tensor = self.model.inputs(input_ids, slots, embeddings)
        return inputs

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what no file holds: buffers that transformers has moved off the meta device without their values."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        held = module.state_dict()
        lost = {name: buffer for name, buffer in module.named_buffers(recurse=False) if name not in held}
        if lost:
            path = next(name for name, part in self.model.named_modules() if part is module)
            for name, buffer in lost.items():
                buffer.copy_(self._tables[f"{path}.{name}"])

    @cached_property
    def _tables(self) -> dict[str, Tensor]:
        """The buffers of a new model, by their names."""
        with torch.device("cpu"), shapes_only():
            return dict(_build(self.config).named_buffers())


def _build(config: DromaiusConfig) -> Emu:
    """Build the model; what is not a LLaMA by its sizes has its language model's settings in a folder."""
    settings = config.model
    if settings.language_model.path is None:
        return Emu(settings)
    with tempfile.TemporaryDirectory() as folder:
        config.text_config.save_pretrained(folder)
        return Emu(_with_path(settings, folder))


def _with_path(settings: EmuConfig, folder: str) -> EmuConfig:
    return settings.model_copy(update={"language_model": settings.language_model.model_copy(update={"path": folder})})
