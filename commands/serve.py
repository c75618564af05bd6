"""Serve a model over HTTP: python -m commands.serve [--model exported] [--port 8000]

POST /predict takes the bytes of one image, in any format that training takes, and answers JSON: label, confidence, and
the probability of each class. GET /metrics is for Prometheus, and GET /health says whether it is up. A model that
`noisy-student export` wrote needs no torch.

    curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
"""

import json
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
import uvicorn
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from commands.predict import Predictor, predictor
from noisy_student.core.config import validated
from noisy_student.core.errors import UserError, cli_main
from noisy_student.store.decoding import BadImage, Preparation, decode, with_channels

MAX_BYTES = 30_000_000  # of an image file
MAX_WAITING = 64  # requests at once; further ones are told to come back


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model's folder; none: the one to deploy, or that of `current`")
    parser.add_argument("--host", default="127.0.0.1", help="an address of this machine; 0.0.0.0: all of them")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args(argv)
    probabilities, description = predictor(args.model)
    print(f"http://{args.host}:{args.port}/predict takes an image; Ctrl-C ends it", flush=True)
    app = make_app(probabilities, description)
    uvicorn.run(app, host=args.host, port=args.port, limit_concurrency=MAX_WAITING, log_level="warning")


def make_app(probabilities: Predictor, description: dict[str, Any]) -> Starlette:
    """The ASGI app of a model, whose model.json is `description`."""
    service = Service(probabilities, description)
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/metrics", service.metrics),
        Route("/health", service.health),
    ]
    return Starlette(routes=routes)


class Service:
    """Answers requests with a model, one image at a time, and counts them."""

    def __init__(self, probabilities: Predictor, description: dict[str, Any]):
        self.probabilities, self.classes, self.channels = probabilities, description["classes"], description["channels"]
        self.how = validated(Preparation, description["preparation"], "preparation")
        self.turn = anyio.CapacityLimiter(1)  # the model itself uses all cores
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "answers to POST /predict", ["status"], registry=self.registry)
        self.seconds = Histogram("request_seconds", "from request to answer", registry=self.registry)

    async def predict(self, request: Request) -> Response:
        start = time.perf_counter()
        answer = await self._answer(request)
        self.requests.labels(str(answer.status_code)).inc()
        self.seconds.observe(time.perf_counter() - start)
        return answer

    async def metrics(self, request: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "up", "classes": len(self.classes)})

    async def _answer(self, request: Request) -> Response:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > MAX_BYTES:
                return _refusal(413, f"the file has more than {MAX_BYTES:,} bytes; send a smaller one")
        try:
            found = await anyio.to_thread.run_sync(self._predict, bytes(content), limiter=self.turn)
        except BadImage as bad:
            return _refusal(422, str(bad))
        except UserError as error:
            return _refusal(500, str(error))
        return JSONResponse(found)

    def _predict(self, content: bytes) -> dict[str, Any]:
        """The label of an image file, its confidence, and all probabilities. Raises `BadImage`."""
        image = with_channels(decode(content, self.how).pixels, self.channels)
        probabilities = self.probabilities(np.ascontiguousarray(image[None]))[0]
        best = int(probabilities.argmax())
        by_class = {name: round(float(each), 4) for name, each in zip(self.classes, probabilities, strict=True)}
        return {"label": self.classes[best], "confidence": by_class[self.classes[best]], "probabilities": by_class}


def _refusal(status: int, sentence: str) -> Response:
    return Response(json.dumps({"error": sentence}) + "\n", status_code=status, media_type="application/json")


if __name__ == "__main__":
    main()
