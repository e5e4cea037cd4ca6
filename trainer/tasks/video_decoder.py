"""`video_decoder`: training of the video decoder on films, from a trained image decoder.

Like Emu2's image decoder it learns to reconstruct, here a film from the visual embeddings of its frames. Loss,
conditioning, kept features and averages are those of the image decoder's training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.config import ImageDecoderConfig
from model.image_decoder import ImageDecoder
from model.video_decoder import VideoDecoder, begin_from
from pipelines.document import Split
from pipelines.errors import UserError
from trainer.config import VideoDecoderRunSettings
from trainer.reading.micro_batches import as_tensor
from trainer.reading.reader import ReadChunk
from trainer.tasks.build import load_decoder_weights
from trainer.tasks.decoder import DecoderTask, Drawing
from trainer.tasks.films import FilmData


class VideoDecoderTask(DecoderTask):
    """Training of the video decoder; needs the main model's weights, and an image decoder's."""

    _decoder_kind = VideoDecoder
    run: VideoDecoderRunSettings
    data: FilmData

    def open(self, split: Split) -> FilmData:
        """Open the films of a split."""
        return FilmData.open(self._corpus, self._model, self.run, split)

    def build(self) -> nn.Module:
        """Build U-Net and autoencoder from an image decoder; the layers over time begin without effect."""
        config = self.data.model
        frames = ImageDecoder(config.frame_decoder, config.visual_width, config.bridge.image_slots)
        for named in self.run.weights:
            if named.is_of_run and not (Path(self._out) / named.path).exists():
                raise UserError(
                    f"video_decoder.weights: {self._out}/{named.path}: is missing: train the image decoder first, by "
                    "`python -m trainer decoder`, or name the checkpoint of another one"
                )
        for line in load_decoder_weights(frames, self.run.weights, self._out, "video_decoder.weights"):
            self._world.say(line)
        decoder = VideoDecoder.for_model(config)
        begin_from(decoder, frames)
        return Drawing(decoder)

    def architecture(self) -> dict[str, Any]:
        """Return the settings of the decoder and of its conditioning, and the number of frames."""
        return super().architecture() | {"frames": self.data.num_frames}

    @property
    def _frames(self) -> tuple[int, ...]:
        return (self.data.num_frames,)

    @property
    def _shape(self) -> ImageDecoderConfig:
        return self.data.model.frame_decoder

    def _views(self, chunks: Sequence[ReadChunk]) -> tuple[Tensor, Tensor | None]:
        """Return films (B, F, 3, S, S) as the decoder's targets and, in another size, as the encoder reads them."""
        num = self.data.num_frames
        parts = (slice(num),) if self.data.encoder_size is None else (slice(num), slice(num, None))
        images, *seen = (
            torch.stack([torch.stack([*map(as_tensor, chunk.images[part])]) for chunk in chunks]) for part in parts
        )
        return images, seen[0] if seen else None
