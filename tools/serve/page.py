"""The page: captions, conversations, drawings, and prompts built from examples."""

import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Never

import gradio as gr
from fastapi import FastAPI
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from model.box_text import read_boxes
from model.errors import PromptError
from model.parts import Part
from tools.serve.api import Result, Service
from tools.serve.messages import check_image

_MOST_SHOTS = 8
_BOXES = "Boxes: [box:a red circle:0.1,0.1,0.5,0.5], as left, top, right, bottom."


def add_page(app: FastAPI, service: Service, key: str | None) -> FastAPI:
    """Return the app with the page at `/`.

    Args:
        app: The endpoints.
        service: The model.
        key: The password of the page, whatever the user's name; None: none is asked for.
    """
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        make_page(service),
        path="/",
        auth=None if key is None else lambda _, password: hmac.compare_digest(password.encode(), key.encode()),
        max_file_size=service.limits.body,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
    )
    return mounted


def make_page(service: Service) -> Any:
    """Make the page, with the tabs that the model can serve."""
    loaded = service.loaded
    is_pretrained = loaded.run.template is None
    with gr.Blocks(title=f"Dromaius: {service.name}", analytics_enabled=False) as page:
        gr.Markdown(f"# {service.name}")
        if loaded.chats:
            with gr.Tab("Chat"):
                _chat_tab(service)
        if is_pretrained or loaded.chats:
            with gr.Tab("Caption"):
                _caption_tab(service)
        if loaded.draws:
            with gr.Tab("Draw"):
                _draw_tab(service)
        if is_pretrained:
            with gr.Tab("Examples"):
                _examples_tab(service)
    return page


def _caption_tab(service: Service) -> None:
    with gr.Row():
        image = _image("Image")
        caption = gr.Textbox(label="Caption", lines=4)

    async def describe(path: str | None) -> str:
        def work() -> str:
            if path is None:
                raise PromptError("Give an image.")
            return service.loaded.caption(_read(path, service))

        return await _answer(service, work)

    gr.Button("Caption", variant="primary").click(describe, image, caption, api_visibility="private")


def _chat_tab(service: Service) -> None:
    async def reply(message: dict[str, Any], history: list[dict[str, Any]]) -> AsyncIterator[str]:
        try:
            turns = [{"role": turn["role"], "content": _contents(turn["content"], service)} for turn in history]
            said = [{"role": "user", "content": [*(_file(f, service) for f in message["files"]), message["text"]]}]
            pieces = await run_in_threadpool(service.loaded.stream_chat, [*turns, *said])
            service.turn.check()
        except (PromptError, HTTPException) as error:
            _show(error)
        answer = ""
        async with service.turn.taken():
            while (piece := await run_in_threadpool(next, pieces, None)) is not None:
                answer += piece
                yield answer

    box = gr.MultimodalTextbox(file_types=["image"], file_count="multiple", placeholder="A question, and images")
    gr.ChatInterface(reply, multimodal=True, textbox=box, api_visibility="private", analytics_enabled=False)


def _draw_tab(service: Service) -> None:
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(label="Prompt", lines=3, info=_BOXES)
            subjects = gr.Gallery(label="Images before the prompt: subjects, a style, or what to edit", type="filepath")
            guidance = gr.Slider(1, 15, label="Guidance", value=service.loaded.guidance)
            seed = gr.Number(0, label="Seed", precision=0)
            button = gr.Button("Draw", variant="primary")
        drawn = gr.Image(label="Drawn", format="png")

    async def draw(prompt: str, subjects: Sequence[Any] | None, guidance: float, seed: int) -> Image.Image:
        def work() -> Image.Image:
            images = [_read(path, service) for path, _ in subjects or ()]
            return service.loaded.draw(*images, *read_boxes(prompt), seed=int(seed), guidance=guidance)

        return await _answer(service, work)

    button.click(draw, [prompt, subjects, guidance, seed], drawn, api_visibility="private")


def _examples_tab(service: Service) -> None:
    """Prompts of images with texts, which the model continues by a text or an image."""
    gr.Markdown("Each example is an image with its text; the model continues after the last.")
    shots: list[gr.Image | gr.Textbox] = []
    rows = []
    for number in range(_MOST_SHOTS):
        with gr.Row(visible=number < 2) as row:
            shots += [_image(f"Image {number + 1}", height=160), gr.Textbox(label="Text", lines=4)]
        rows.append(row)
    shown = gr.State(2)
    with gr.Row():
        more = gr.Button("Add an example")
        button = gr.Button("Continue", variant="primary")
    wants = ["text", "image"] if service.loaded.draws else ["text"]
    want = gr.Radio(wants, value="text", label="Continue with")
    text, image = gr.Textbox(label="Text", interactive=False), gr.Image(label="Image", format="png")

    def add(num: int) -> list[Any]:
        num = min(num + 1, _MOST_SHOTS)
        return [num, *(gr.Row(visible=number < num) for number in range(_MOST_SHOTS))]

    async def continue_prompt(want: str, *shots: Any) -> tuple[str, Image.Image | None]:
        def work() -> list[str | Image.Image]:
            parts: list[Part] = []
            for path, words in zip(shots[::2], shots[1::2], strict=True):
                parts += [*([_read(path, service)] if path else ()), *read_boxes(words or "")]
            if not any(parts):
                raise PromptError("Give an example.")
            return service.loaded.generate(*parts, want="image" if want == "image" else "text")

        found = await _answer(service, work)
        texts = [part for part in found if isinstance(part, str)]
        images = [part for part in found if isinstance(part, Image.Image)]
        return "".join(texts), next(iter(images), None)

    more.click(add, shown, [shown, *rows], api_visibility="private")
    button.click(continue_prompt, [want, *shots], [text, image], api_visibility="private")


async def _answer(service: Service, work: Callable[[], Result]) -> Result:
    try:
        return await service.run(work)
    except (PromptError, HTTPException) as error:
        _show(error)


def _show(error: PromptError | HTTPException) -> Never:
    """Show why something is refused as a message on the page."""
    words = error.detail if isinstance(error, HTTPException) else str(error)
    raise gr.Error(words, print_exception=False) from error


def _image(label: str, **options: Any) -> gr.Image:
    """Make a field for an image, which is given on as the file that it is: nothing decodes it before it is judged."""
    return gr.Image(type="filepath", image_mode=None, label=label, **options)


def _read(path: str, service: Service) -> bytes:
    """Return the file of an image.

    Raises:
        ApiError: If it is none, or too large.
    """
    return check_image(Path(path).read_bytes(), service.limits, "the image")


def _file(file: Any, service: Service) -> bytes:
    return _read(file["path"] if isinstance(file, dict) else file, service)


def _contents(content: Any, service: Service) -> list[Part]:
    """Return what one side said, in the forms in which Gradio keeps it, as parts."""
    found: list[Part] = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            found.append(part)
        elif part.get("type") == "text":
            found.append(part["text"])
        else:
            found.append(_file(part.get("file", part), service))
    return found
