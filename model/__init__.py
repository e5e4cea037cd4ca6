"""The model: vision encoder, bridge, language model, image decoder. Single-device PyTorch, with nothing else of ours.

config           settings of each part, and the named sizes
tokenizer        text to ids; the model's own tokens after any base vocabulary
segment          the segments of a sample: texts, grounded phrases, images
sequence         cuts samples into windows, writes windows as tokens and slots with targets
template         settings of the templates of tuned models
batch            packed sequences as tensors
vision_encoder   EVA-CLIP's vision towers, and open_clip's own
bridge           Emu's causal former; Emu2's pooling and projections
attention        packed sequences: SDPA, FlexAttention, variable-length Flash
emu              encoder + bridge + language model; forward gives the losses
image_decoder    diffusion U-Net and autoencoder
generation       text, images or both from any prompt
weights          loads and writes released checkpoints, strictly
release/         whole released models into a run's folder, and back
"""
