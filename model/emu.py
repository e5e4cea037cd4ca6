"""Emu: images and text in one sequence; the next token is classified, the next visual embedding regressed.

Emu (arXiv:2307.05222) and Emu2 (arXiv:2312.13286). Neither's training code was released; this is written from the
papers and from the layout of the released weights. The language model is transformers' (Apache-2.0).

B packed sequences, L tokens in each, N images, S slots in all images, E width of visual embeddings, D width of the
language model, T text targets, R regression targets
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.attention import choose_kernel, packed, use_kernel
from model.batch import Batch
from model.bridge import build_bridge
from model.config import EmuConfig
from model.language_model import (
    backbone,
    blocks,
    build_language_model,
    cross_entropy,
    family_of,
    has_varlen,
    token_logits,
    token_losses,
    with_folders_sizes,
)
from model.vision_encoder import Encoder


class Losses(NamedTuple):
    """Result of a forward pass: the loss to minimise, and the separate loss of each target.

    Attributes:
        loss: Scalar.
        text: (T,) cross-entropy of each text target in nats, detached, in the order of `Batch.text_at`; (0,) in
            training if its weight is 0.
        visual: (R,) squared error of each regression target, detached, in the order of `Batch.visual_at`; (0,) in
            training if its weight is 0.
    """

    loss: Tensor
    text: Tensor
    visual: Tensor


class VisualEmbedder(nn.Module):
    """Vision encoder and bridge: images to visual embeddings."""

    def __init__(self, config: EmuConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.bridge = build_bridge(config)

    def encode_images(self, images: Tensor, *, frames: bool = False) -> Tensor:
        """Return visual embeddings of images.

        Args:
            images: (N, 3, side, side) uint8 or normalised pixels; or features from `image_features`.
            frames: True for video frames, which may have fewer embeddings.

        Returns:
            (N, slots per image, E)
        """
        features = self.image_features(images, frames=frames) if images.ndim == 4 else images
        return self.bridge.encode(features.to(next(self.bridge.parameters()).dtype))

    def image_features(self, images: Tensor, *, frames: bool = False) -> Tensor:
        """Return features from before the bridge's parameters: worth caching while the encoder is frozen.

        Returns:
            (N, slots, E) for emu2, (N, 1 + patches, encoder width) for emu.
        """
        num_slots = self.config.bridge.frame_slots if frames else self.config.bridge.image_slots
        return self.bridge.reduce(self._encoder_tokens(images), num_slots)

    def _encoder_tokens(self, images: Tensor) -> Tensor:
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.encoder.parameters())
        with torch.set_grad_enabled(trained):
            tokens: Tensor = self.encoder(images)
            return tokens


class Emu(VisualEmbedder):
    """The whole model: vision encoder, bridge and language model.

    Attributes:
        logits_chunk: Text targets whose logits are in memory at a time; None: all of a batch.
    """

    def __init__(self, config: EmuConfig) -> None:
        config = config.model_copy(update={"language_model": with_folders_sizes(config.language_model)})
        super().__init__(config)
        self.language_model = build_language_model(config.language_model, config.vocab_size)
        self.logits_chunk: int | None = None
        self._cross_entropy = cross_entropy

    def forward(self, batch: Batch, num_text: int | None = None, num_visual: int | None = None) -> Losses:
        """Compute the unified objective on packed sequences.

        Every module takes part in every call, with zero weight if the batch or the objective has none for it:
        distributed optimizers wait for all modules.

        Args:
            batch: Packed sequences.
            num_text: Divisor of the sum over text targets; None: the number in the batch. A trainer
                passes the number in the global batch, so that the loss does not depend on how that is split.
            num_visual: The same for regression targets.
        """
        embeddings = self.embed_images(batch)  # (S or more, E), those of a dummy image at the end
        num_slots = len(batch.slots)
        hidden = self.hidden(batch, self._noisy(embeddings))  # (B * L, D)

        settings = self.config.objective
        visual_weight = settings.visual_weight if settings.regression else 0.0
        nothing = hidden.new_zeros(0, dtype=torch.float32)
        text = self._text_losses(hidden, batch) if self._counts(settings.text_weight) else nothing
        visual = self._visual_losses(hidden, batch, embeddings[:num_slots]) if self._counts(visual_weight) else nothing

        text_loss = text.sum() / max(1, len(text) if num_text is None else num_text)
        visual_loss = visual.sum() / max(1, len(visual) if num_visual is None else num_visual)
        loss = settings.text_weight * text_loss + visual_weight * visual_loss
        if not self._counts(settings.text_weight):
            loss = loss + 0.0 * token_logits(self.language_model, hidden[:1]).sum()
        if not self._counts(visual_weight):
            loss = loss + 0.0 * self.bridge.project_down(hidden[:1]).sum()
        return Losses(loss, text.detach(), visual.detach())

    def _counts(self, weight: float) -> bool:
        """Return whether losses of an objective are computed: in training only if they have a weight."""
        return weight != 0 or not self.training

    def _text_losses(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of each text target: (B * L, D) -> (T,)."""
        # index_select: the gradient of a plain index sorts the positions, which are all different here.
        at_targets = hidden.index_select(0, batch.text_at)  # (T, D)
        return token_losses(
            self.language_model, at_targets, batch.text_targets, chunk=self.logits_chunk, loss=self._cross_entropy
        )

    def _visual_losses(self, hidden: Tensor, batch: Batch, embeddings: Tensor) -> Tensor:
        """Return the squared error of each regression target: (B * L, D), (S, E) -> (R,)."""
        aim = embeddings.detach()
        if self.config.family == "emu":  # the embedding of [/IMG] is the last of the targets
            aim = torch.cat([aim, self._token_embedding(self.config.image_end_id).to(aim.dtype)])
        guess = self.bridge.project_down(hidden.index_select(0, batch.visual_at))  # (R, E)
        errors = (guess.float() - aim[batch.visual_rows].float()).square()
        return errors.sum(-1) if self.config.objective.reduction == "sum" else errors.mean(-1)

    def embed_images(self, batch: Batch) -> Tensor:
        """Return the visual embeddings of a batch's images, slot by slot.

        Returns:
            (S, E) in the order of `Batch.slots`; without images, those of one black dummy.
        """
        images = batch.images
        if images is None:
            side = self.config.encoder.image_size
            images = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=batch.token_ids.device)
        if images.ndim != 4 or self._slots_alike:
            return self.encode_images(images).flatten(0, 1)
        # The encoder runs once: ranks with and without frames must call the same modules, or ZeRO-3 deadlocks.
        num_stills = len(images) - batch.num_frames
        tokens = self._encoder_tokens(images)
        parts = []
        for part, num_slots in (
            (tokens[:num_stills], self.config.bridge.image_slots),
            (tokens[num_stills:], self.config.bridge.frame_slots),
        ):
            features = self.bridge.reduce(part, num_slots).to(self.language_model.dtype)
            parts.append(self.bridge.encode(features).flatten(0, 1))
        return torch.cat(parts)

    @property
    def _slots_alike(self) -> bool:
        return self.config.bridge.image_slots == self.config.bridge.frame_slots

    def inputs(self, token_ids: Tensor, slots: Tensor, embeddings: Tensor) -> Tensor:
        """Return the inputs of the language model: token embeddings, with visual embeddings in the slots.

        Args:
            token_ids: (B, L) int64.
            slots: (S,) flat positions of the slots.
            embeddings: (S or more, E) visual embeddings; those beyond the slots take part with zero weight.

        Returns:
            (B, L, D)
        """
        entered = self.bridge.project_up(embeddings)  # (S or more, D)
        num_slots = len(slots)
        tokens: Tensor = self.language_model.get_input_embeddings()(token_ids)  # (B, L, D)
        x = tokens.flatten(0, 1).index_copy(0, slots, entered[:num_slots].to(tokens.dtype))
        if len(entered) > num_slots:
            x = x + 0.0 * entered[num_slots:].sum()
        return x.view_as(tokens).clone()  # no view: compiled, the first block would need a graph of its own for one

    def hidden(self, batch: Batch, embeddings: Tensor) -> Tensor:
        """Return the last hidden state at every position, flat: (B * L, D).

        Args:
            batch: Packed sequences.
            embeddings: As for `inputs`.
        """
        x = self.inputs(batch.token_ids, batch.slots, embeddings)
        language_model = self.language_model
        varlen = has_varlen(language_model.config)
        kernel = choose_kernel(self.config.language_model.attention, x, varlen=varlen)
        use_kernel(language_model, kernel, family_of(language_model.config).masked)
        with packed(batch, kernel) as arguments:
            output = backbone(language_model)(inputs_embeds=x, use_cache=False, **arguments)
        last: Tensor = output.last_hidden_state
        return last.flatten(0, 1)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield every transformer block, for compiling one by one."""
        yield from self.encoder.blocks()
        yield from self.bridge.blocks()
        yield from blocks(self.language_model)

    def compile_losses(self) -> None:
        """Compile the cross-entropy: on a GPU two fused kernels instead of copies of all logits in float32."""
        self._cross_entropy = torch.compile(cross_entropy, dynamic=True)

    def set_gradient_checkpointing(self, *, encoder: bool, bridge: bool, language_model: bool) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations, module by module."""
        self.encoder.set_gradient_checkpointing(encoder)
        self.bridge.set_gradient_checkpointing(bridge)
        if language_model:
            self.language_model.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.language_model.activation_checkpointing_disable()

    def _noisy(self, embeddings: Tensor) -> Tensor:
        scale = self.config.objective.input_noise
        if not self.training or scale == 0:
            return embeddings
        return embeddings + scale * torch.randn_like(embeddings)

    def _token_embedding(self, token_id: int) -> Tensor:
        ids = torch.full((1,), token_id, device=self.language_model.device)
        embedding: Tensor = self.language_model.get_input_embeddings()(ids)  # (1, D)
        return embedding.detach()
