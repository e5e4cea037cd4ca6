"""A judge of generated images, independent of the model: a small network, trained on true images and their captions.

It looks at an image in three ways, and each attribute is recognised by the first way that suffices:

* `palette`: single pixels without their places: enough for a colour, blind to shapes
* `recoloured`: the whole image, with colours mixed at random in training: enough for a shape, blind to colours
* `plain`: the whole image as it is

Therefore no colour is guessed from a shape or vice versa, which would be wrong for combinations that training never
shows: on those of the demo (32 pixels), 99 % instead of 88 % of the shapes are recognised, and 100 % instead of 64 to
97 % of the colours.

B images, S pixels per side, V values of an attribute
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from trainer.evaluation.attributes import Attributes, Values

WAYS = ("palette", "recoloured", "plain")
_WIDTH = 16
_PALETTE_WIDTH = 32
_MAX_OWN = 256  # images held out from training, to choose the ways
_SUFFICES = 0.01  # a way suffices if its accuracy is at most this much below the best
_BATCH = 64
_PEAK_LR = 6e-3
_SMOOTHING = 0.05
_JITTER = 0.1  # standard deviation of contrast and of each channel's level, where pixels are -1..1
_GRAIN = 0.03  # standard deviation of the noise of each pixel


class Judge:
    """Recognises the attributes of images.

    Args:
        attributes: The attributes and their values.
        device: Device of the network.
    """

    def __init__(self, attributes: Attributes, device: torch.device) -> None:
        self._words = attributes.words
        self._device = device
        self._ways: dict[str, int] = {}

    def learn(self, images: Tensor, values: Sequence[Values], *, steps: int, seed: int = 0) -> None:
        """Train on images with known attributes.

        Args:
            images: (B, 3, S, S) uint8.
            values: Attributes of each image.
            steps: Number of training steps.
            seed: Seed of all random choices; equal seeds give equal judges.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = _Network([len(v) for v in self._words.values()], images.shape[-1])
        network = self._network.to(memory_format=torch.channels_last).to(self._device).train()
        draw = torch.Generator().manual_seed(seed)
        answers = torch.tensor([[self._words[n].index(v[n]) for n in self._words] for v in values])  # (B, attributes)
        order = torch.randperm(len(images), generator=draw)
        num_own = max(1, min(_MAX_OWN, len(images) // 5))
        own, others = order[:num_own], order[num_own:]
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LR, steps)
        for _ in range(steps):
            chosen = others[torch.randint(len(others), (_BATCH,), generator=draw)]
            x = _varied(_floats(images[chosen]), draw)
            half = _BATCH // 2
            x = torch.cat([_recoloured(x[:half], draw), x[half:]]).to(self._device)
            y = answers[chosen].to(self._device)
            loss = x.new_zeros(())
            palettes, whole = network.palette(x[half:]), network.whole(x)
            for i in range(len(self._words)):
                for guess, right in (
                    (palettes[i], y[half:, i]),
                    (whole[i][0][:half], y[:half, i]),
                    (whole[i][1][half:], y[half:, i]),
                ):
                    loss = loss + F.cross_entropy(guess, right, label_smoothing=_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        guesses = self._guess(images[own])  # (attributes, ways, B)
        right = (guesses == answers[own].T[:, None]).float().mean(2)  # (attributes, ways)
        for name, row in zip(self._words, right, strict=True):
            self._ways[name] = int((row >= row.max() - _SUFFICES).nonzero()[0])

    @property
    def ways(self) -> dict[str, str]:
        """The way in which each attribute is recognised."""
        return {name: WAYS[way] for name, way in self._ways.items()}

    def read(self, images: Tensor) -> list[Values]:
        """Return the attributes of images; (B, 3, S, S) uint8."""
        guesses = self._guess(images)
        chosen = {
            name: [values[i] for i in guesses[number, self._ways[name]].tolist()]
            for number, (name, values) in enumerate(self._words.items())
        }
        return [{name: column[i] for name, column in chosen.items()} for i in range(len(images))]

    @torch.no_grad()
    def _guess(self, images: Tensor) -> Tensor:
        """Return the likeliest value of each attribute in each way: (attributes, ways, B)."""
        network = self._network.eval()
        parts = []
        for part in images.split(256):
            x = _floats(part).to(self._device)
            heads = zip(network.palette(x), network.whole(x), strict=True)
            parts.append(torch.stack([torch.stack([p.argmax(1), r.argmax(1), w.argmax(1)]) for p, (r, w) in heads]))
        return torch.cat(parts, dim=2).cpu()


class _Network(nn.Module):
    """Convolutions over the whole image, and a network that sees one pixel at a time."""

    def __init__(self, num_values: Sequence[int], side: int) -> None:
        super().__init__()
        width = _WIDTH
        self.body = nn.Sequential(
            *[_block(3, width), *[nn.MaxPool2d(2)] * (side > 32)],
            *[_block(width, width), nn.MaxPool2d(2)],
            *[_block(width, 2 * width), _block(2 * width, 2 * width), nn.MaxPool2d(2)],
            _block(2 * width, 4 * width),
        )
        self.pixels = nn.Sequential(_block(3, _PALETTE_WIDTH, 1), _block(_PALETTE_WIDTH, _PALETTE_WIDTH, 1))
        self.heads = nn.ModuleList(nn.Linear(4 * width * (1 + 16), 2 * num) for num in num_values)
        self.palette_heads = nn.ModuleList(nn.Linear(_PALETTE_WIDTH, num) for num in num_values)

    def whole(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return two tensors (B, V) per attribute for (B, 3, S, S): recoloured and plain."""
        x = self.body(x)
        x = torch.cat([x.amax((2, 3)), F.adaptive_max_pool2d(x, 4).flatten(1)], dim=1)
        return [head(x).chunk(2, dim=1) for head in self.heads]

    def palette(self, x: Tensor) -> list[Tensor]:
        """Return (B, V) per attribute for (B, 3, S, S)."""
        step = max(1, x.shape[-1] // 16)
        x = self.pixels(x[:, :, ::step, ::step]).amax((2, 3))
        return [head(x) for head in self.palette_heads]


def _block(width_in: int, width: int, size: int = 3) -> nn.Module:
    convolution = nn.Conv2d(width_in, width, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


def _floats(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _varied(x: Tensor, draw: torch.Generator) -> Tensor:
    """Vary images at random: shifted, blurred as drawn ones often are, brighter or darker, with noise."""
    side, margin = x.shape[-1], x.shape[-1] // 16
    left, top = torch.randint(2 * margin + 1, (2,), generator=draw).tolist()
    x = F.pad(x, (margin,) * 4, mode="replicate")[:, :, top : top + side, left : left + side]
    blurred = F.avg_pool2d(F.pad(x, (1,) * 4, mode="replicate"), 3, stride=1)
    x = x.lerp(blurred, torch.rand(len(x), 1, 1, 1, generator=draw))
    contrast = 1 + _JITTER * torch.randn(len(x), 1, 1, 1, generator=draw)
    levels = _JITTER * torch.randn(len(x), 3, 1, 1, generator=draw)
    return x * contrast + levels + _GRAIN * torch.randn(x.shape, generator=draw)


def _recoloured(x: Tensor, draw: torch.Generator) -> Tensor:
    """Replace every channel by a random mixture of the three."""
    mixtures = torch.randn(len(x), 3, 3, generator=draw)
    return torch.einsum("bij,bjhw->bihw", mixtures / mixtures.norm(dim=2, keepdim=True), x)
