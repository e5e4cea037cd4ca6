"""Generation: images of 64 embeddings by the config's model, with either cache and without."""

from model.emu import Emu
from model.generation import GenerationConfig, Prompt, generate
from model.segment import text
from model.sequence import Layout
from model.tokenizer import Tokenizer
from tools.bench.gpu_parts.part import Bench, quick_weights

CACHES = {
    "a growing cache": GenerationConfig(max_new_tokens=0, max_images=1),
    "a fixed cache": GenerationConfig(max_new_tokens=0, max_images=1, fixed_cache=True),
    "no cache": GenerationConfig(max_new_tokens=0, max_images=1, use_cache=False),
}


def generation(bench: Bench) -> None:
    """Images of 64 embeddings by the config's model after a caption, with either cache and without."""
    config, tokenizer = bench.model_of_corpus()
    with quick_weights(on_gpu=bench.on_gpu):
        model = Emu(config).to(bench.device, bench.dtype).eval()
    layout = Layout(tokenizer, config.bridge)
    caption = "a lighthouse above the quay seen in red weather near the boat"
    prompt = Prompt.of(layout, [text(caption, tokenizer, role="caption")], draw=True)
    for num in (1, 8):
        speeds = {}
        for name, settings in CACHES.items():
            speeds[name] = _images_a_second(bench, model, tokenizer, [prompt] * num, settings)
            bench.add(f"images at batch {num}, {name}", speeds[name], "/s")
        for name in ("a growing cache", "a fixed cache"):
            bench.add(f"at batch {num}, {name} to none", speeds[name] / speeds["no cache"], "x")
    found = [generate(model, tokenizer, [prompt], CACHES[name]) for name in ("a fixed cache", "no cache")]
    cached, again = (results[0].images[0].float() for results in found)
    bench.add("first embedding, cached to uncached: largest difference", float((cached - again)[0].abs().max()), "")
    bench.add("last embedding, cached to uncached: largest difference", float((cached - again)[-1].abs().max()), "")


def _images_a_second(
    bench: Bench, model: Emu, tokenizer: Tokenizer, prompts: list[Prompt], settings: GenerationConfig
) -> float:
    generate(model, tokenizer, prompts, settings)  # warms up
    best = float("inf")
    for _ in range(2):
        start = bench.now()
        generate(model, tokenizer, prompts, settings)
        best = min(best, bench.now() - start)
    return len(prompts) / best
