"""The endpoints: OpenAI's chat completions, image generations and edits, and its list of models."""

import base64
import hmac
import io
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, File, Form, Header, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, Response, StreamingResponse

from model.box_text import read_boxes
from model.errors import PromptError
from model.loaded_model import Answer, LoadedModel
from model.parts import Part
from tools.serve.limits import ApiError, BodyLimit, Limits, Turn, error_response
from tools.serve.messages import ChatRequest, ImageRequest, check_image

Result = TypeVar("Result")

_DONE = b"data: [DONE]\n\n"


class Service:
    """A model that answers one request after the other.

    Args:
        loaded: The model.
        name: Its name, which answers carry.
        limits: What a request may ask for.
    """

    def __init__(self, loaded: LoadedModel, name: str, limits: Limits) -> None:
        self.loaded, self.name, self.limits = loaded, name, limits
        self.turn = Turn(limits.waiting)
        self.began = int(time.time())

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do something with the model, in a thread, once it is free.

        Raises:
            ApiError: 429, if too many wait.
        """
        self.turn.check()
        async with self.turn.taken():
            return await run_in_threadpool(work)


def make_api(service: Service, *, key: str | None = None, hosts: Sequence[str] | None = None) -> FastAPI:
    """Make the app.

    Args:
        service: The model.
        key: What a request must carry as `Authorization: Bearer`; None: nothing.
        hosts: Names by which it may be addressed; None: any.
    """
    app = FastAPI(title="Dromaius", docs_url=None, redoc_url=None)
    if hosts is not None:  # so that no page of the web reaches it under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])
    app.add_middleware(BodyLimit, most=service.limits.body)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return error_response(error)

    @app.exception_handler(PromptError)
    async def not_answered(request: Request, error: PromptError) -> Response:
        return error_response(ApiError(400, str(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return error_response(ApiError(400, f"{where}: {first['msg']}"))

    def authorised(authorization: Annotated[str, Header()] = "") -> None:
        given = authorization.removeprefix("Bearer ")
        if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
            raise ApiError(401, "give the key: Authorization: Bearer ...", {"www-authenticate": "Bearer"})

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    app.include_router(_routes(service), prefix="/v1", dependencies=[Depends(authorised)])
    return app


def _routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/models")
    async def models() -> dict[str, Any]:
        model = {"id": service.name, "object": "model", "created": service.began, "owned_by": "dromaius"}
        return {"object": "list", "data": [model]}

    @router.post("/chat/completions", response_model=None)
    async def chat(body: ChatRequest) -> Response:
        return await _chat(service, body)

    @router.post("/images/generations")
    async def generations(body: ImageRequest) -> dict[str, Any]:
        return await _draw(service, [*read_boxes(body.prompt)], body.n, body.seed, body.guidance)

    @router.post("/images/edits")
    async def edits(
        prompt: Annotated[str, Form(min_length=1)],
        image: Annotated[list[UploadFile] | None, File()] = None,
        images: Annotated[list[UploadFile] | None, File(alias="image[]")] = None,
        n: Annotated[int, Form(ge=1)] = 1,
        seed: Annotated[int, Form()] = 0,
        guidance: Annotated[float | None, Form()] = None,
    ) -> dict[str, Any]:
        files = [*(image or ()), *(images or ())]
        if not 1 <= len(files) <= service.limits.images:
            raise ApiError(400, f"image: {len(files)} files, and 1 to {service.limits.images} are allowed")
        subjects = [check_image(await file.read(), service.limits, file.filename or "image") for file in files]
        return await _draw(service, [*subjects, *read_boxes(prompt)], n, seed, guidance)

    return router


async def _draw(service: Service, parts: Sequence[Part], n: int, seed: int, guidance: float | None) -> dict[str, Any]:
    if n > service.limits.drawn:
        raise ApiError(400, f"n: {n} images are more than {service.limits.drawn}, which are allowed here")

    def work() -> list[str]:
        return [_png(service.loaded.draw(*parts, seed=seed + i, guidance=guidance)) for i in range(n)]

    drawn = await service.run(work)
    return {"created": int(time.time()), "data": [{"b64_json": image} for image in drawn]}


def _png(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


async def _chat(service: Service, body: ChatRequest) -> Response:
    loaded, messages = service.loaded, await run_in_threadpool(body.conversation, service.limits)
    options = {"max_new_tokens": min(loaded.run.generation.max_new_tokens, service.limits.new_tokens)}
    options |= body.options(service.limits)
    service.turn.check()
    prompt = await run_in_threadpool(loaded.conversation, messages)  # decodes images
    reply = _Reply(service, len(prompt.sequence.token_ids))
    if not body.stream:
        return JSONResponse(reply.whole(await service.run(lambda: loaded.answer(prompt, seed=body.seed, **options))))
    service.turn.check()
    answers = loaded.stream_answer(prompt, seed=body.seed, **options)
    events = _events(service, reply, answers, with_usage=body.stream_options.include_usage)
    return StreamingResponse(events, media_type="text/event-stream")


async def _events(
    service: Service, reply: "_Reply", answers: Iterator[Answer], *, with_usage: bool
) -> AsyncIterator[bytes]:
    """Yield an answer as server-sent events; the model is free again when the client has it all, or has hung up."""
    last = Answer("", 0, False)
    async with service.turn.taken():
        yield reply.chunk({"role": "assistant", "content": ""})
        while (answer := await run_in_threadpool(next, answers, None)) is not None:
            last = answer
            if answer.text:
                yield reply.chunk({"content": answer.text})
    yield reply.chunk({}, finished=_reason(last))
    if with_usage:
        yield reply.event({"choices": [], "usage": reply.usage(last)})
    yield _DONE


def _reason(answer: Answer) -> str:
    return "stop" if answer.ended else "length"


class _Reply:
    """The forms in which an answer is sent."""

    def __init__(self, service: Service, num_asked: int) -> None:
        self.num_asked = num_asked
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}

    def whole(self, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": _reason(answer), "logprobs": None}
        return {**self.head, "object": "chat.completion", "choices": [choice], "usage": self.usage(answer)}

    def chunk(self, delta: dict[str, str], *, finished: str | None = None) -> bytes:
        return self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": finished}]})

    def event(self, content: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps({**self.head, "object": "chat.completion.chunk", **content}).encode() + b"\n\n"

    def usage(self, answer: Answer) -> dict[str, int]:
        asked, answered = self.num_asked, answer.num_tokens
        return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
