"""Runs a language model step by step for generation: with growing caches, caches of a fixed size, or without any.

With a fixed size every step after the prompt is the same work at the same addresses, so that a GPU runs it as one CUDA
graph; else generation waits for the launches of some 200 kernels per step.

B prompts, L inputs of a step, C columns of a cache, D width of the language model
"""

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

from model.attention import use_kernel
from model.language_model import backbone, family_of

_FIXED = {"llama", "mistral", "qwen2", "qwen3"}  # dense, with full attention: their steps do not depend on values
_ROPE_BY_LENGTH = {"dynamic", "longrope"}  # read positions back from the device
_COLUMNS = 64  # of fixed caches, to a multiple
_WARM_UP = 2  # runs before a graph is captured, in which libraries take their workspaces


class StepRunner:
    """Runs the language model step by step, with or without cached keys and values.

    Args:
        language_model: The model, in evaluation mode.
        lengths: (B,) inputs of each prompt, padding excluded.
        use_cache: Whether keys and values are cached; else each step runs the whole prefix.
        room: Inputs after the prompt at most, for caches of a fixed size where the model can have them; None: the
            caches grow.
    """

    def __init__(
        self, language_model: PreTrainedModel, lengths: Tensor, *, use_cache: bool, room: int | None = None
    ) -> None:
        use_kernel(language_model, "sdpa", family_of(language_model.config).masked)  # with masks, for the padding
        self.model = backbone(language_model)
        self.lengths = lengths  # (B,) tokens of each row so far, padding excluded
        self.cache: DynamicCache | None = None
        self.fixed: _FixedSteps | None = None
        if use_cache and room is not None and has_fixed_size(language_model.config):
            self.fixed = _FixedSteps(language_model, lengths, room)
        elif use_cache:
            self.cache = DynamicCache(config=language_model.config)
        self.seen: Tensor | None = None  # all inputs so far, if there is no cache
        self.total = 0  # columns so far, padding included

    def step(self, x: Tensor) -> Tensor:
        """Read (B, L, D) more inputs, after the first step one per row, and return the last hidden state (B, D).

        With caches of a fixed size it is overwritten by the next step.
        """
        if self.fixed is not None:
            return self.fixed.step(x)
        if self.total:
            self.lengths = self.lengths + x.shape[1]
        self.total += x.shape[1]
        if self.cache is None:
            self.seen = x = x if self.seen is None else torch.cat([self.seen, x], dim=1)
        columns = torch.arange(self.total, device=x.device)
        positions = columns - (self.total - self.lengths)[:, None]  # (B, total), negative in the padding
        output = self.model(
            inputs_embeds=x,
            attention_mask=(positions >= 0).long(),
            position_ids=positions[:, -x.shape[1] :].clamp(min=0),
            past_key_values=self.cache,
            use_cache=self.cache is not None,
        )
        last: Tensor = output.last_hidden_state
        return last[:, -1]


def has_fixed_size(settings: PreTrainedConfig) -> bool:
    """Return whether a model's steps can run with caches of a fixed size, as one graph."""
    layers = set(getattr(settings, "layer_types", None) or ("full_attention",))
    rope = getattr(settings, "rope_parameters", None) or {}
    return (
        settings.model_type in _FIXED
        and layers == {"full_attention"}
        and getattr(settings, "sliding_window", None) is None
        and rope.get("rope_type", "default") not in _ROPE_BY_LENGTH
    )


class _FixedSteps:
    """Steps with caches of a fixed size; arguments as of `StepRunner`."""

    def __init__(self, language_model: PreTrainedModel, lengths: Tensor, room: int) -> None:
        self._model, self._settings = backbone(language_model), language_model.config
        self._lengths, self._room = lengths, room
        self._cache: StaticCache | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def step(self, x: Tensor) -> Tensor:
        if self._cache is None:
            return self._begin(x)
        if not x.is_cuda:
            return self._next(x)
        if self._graph is None:
            self._capture(x)
        assert self._graph is not None
        self._x.copy_(x)
        self._graph.replay()
        return self._hidden

    def _begin(self, x: Tensor) -> Tensor:
        """Read the prompts: (B, L, D) -> (B, D)."""
        num = x.shape[1]
        size = num + self._room + -(num + self._room) % _COLUMNS
        self._cache = StaticCache(config=self._settings, max_cache_len=size)
        self._columns = torch.arange(size, device=x.device)
        self._starts = (num - self._lengths)[:, None, None]  # (B, 1, 1): columns of padding
        self._column = torch.full((1,), num, device=x.device)  # of the next input
        return self._run(x, self._columns[:num])

    def _next(self, x: Tensor) -> Tensor:
        hidden = self._run(x, self._column)
        self._column.add_(1)
        return hidden

    def _run(self, x: Tensor, at: Tensor) -> Tensor:
        """Read inputs (B, L, D) at columns (L,) and return the last hidden state (B, D)."""
        columns = self._columns[None, None]  # (1, 1, C)
        own = at[None, :, None]  # (1, L, 1)
        seen = (columns <= own) & (columns >= self._starts)  # (B, L, C)
        output = self._model(
            inputs_embeds=x,
            attention_mask=(seen | (columns == own))[:, None],  # padding sees itself: nothing at all would be NaN
            position_ids=(own - self._starts)[..., 0].clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
        )
        last: Tensor = output.last_hidden_state
        return last[:, -1]

    def _capture(self, x: Tensor) -> None:
        """Capture a step as a graph; what it writes when it is tried out is written again by the first real one."""
        assert self._cache is not None
        self._x = x.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._next(self._x)
            self._column.sub_(_WARM_UP)
            for layer in self._cache.layers:
                assert isinstance(layer, StaticLayer)
                layer.cumulative_length.sub_(_WARM_UP)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._hidden = self._next(self._x)
