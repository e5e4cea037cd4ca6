"""The model: vision encoder, bridge, language model, image decoder. Single-device PyTorch, with nothing else of ours.

config           settings of each part, and the named sizes
tokenizer        text to ids; the model's own tokens after any base vocabulary
segment          the segments of a sample: texts, grounded phrases, images
sequence         cuts samples into windows, writes windows as tokens and slots with targets
template         settings of the templates of tuned models; template_layout: samples and prompts written by them
batch            packed sequences as tensors
vision_encoder   EVA-CLIP's vision towers, and open_clip's own
bridge           Emu's causal former; Emu2's pooling and projections
compiling        compiles a model block by block
attention        packed sequences: SDPA, FlexAttention, variable-length Flash
emu              encoder + bridge + language model; forward gives the losses
image_decoder    diffusion U-Net and autoencoder
video_decoder    the same over the frames of a film; video_file: films as files
generation       text, images or both from any prompt
finished_run     a trained model from a run's folder; respond: its answers to prompts; films: its films
loaded_model     the same with texts and images: `model.load(run)` gives captions, conversations, drawings
parts            what its prompts are made of; box_text: boxes in texts; text_pieces: texts while their tokens come
weights          loads and writes released checkpoints, strictly
release/         whole released models into a run's folder, and back
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.box_text import Region
    from model.loaded_model import LoadedModel
    from model.parts import Frames

__all__ = ["Frames", "LoadedModel", "Region", "load"]


def load(run: str | Path, *, batch: int = 8, compile_decoders: bool = False) -> "LoadedModel":
    """Load the model of a finished run, with its image decoder if it has one, onto the GPU if there is one.

    Args:
        run: The run's folder; that of a tuned model is its `tune/`.
        batch: Number of prompts that are continued together.
        compile_decoders: Whether to compile the blocks of image and video decoder: the first image takes a minute
            longer, later ones less.

    Raises:
        WeightsError: If the run has no weights, or they cannot be read.
    """
    from model.finished_run import FinishedRun
    from model.loaded_model import LoadedModel

    return LoadedModel(FinishedRun.open(run, batch=batch, compile_decoders=compile_decoders))


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import model.loaded_model

    return getattr(model.loaded_model, name)
