"""The API as one ASGI application, made of nouns (`routes.py`).

Refuses to start where a route does not say who may use it (`auth.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide

from headwater.api import auth, edge, problems
from headwater.api.handlers import handlers_of
from headwater.api.idempotency import Once
from headwater.api.limits import RequestLimits
from headwater.api.pagination import Cursors
from headwater.api.query_strings import QueryStrings
from headwater.api.request import APIRequest
from headwater.api.routes import NOUNS
from headwater.api.services import APIServices, Built, Noun
from headwater.tenancy.access_tokens import AccessTokens
from headwater.tenancy.identification import Identification

__all__ = ["APIServices", "create_app"]


def create_app(services: APIServices, nouns: Sequence[Noun] = NOUNS) -> Litestar:
    """nouns: all of them; a test may give its own."""
    identification = Identification(services.database, AccessTokens(services.secret_key, services.clock), services.clock)
    methods: dict[str, set[str]] = {}
    query_strings = QueryStrings()
    built = [(noun, noun.build(services)) for noun in nouns]
    app = Litestar(
        route_handlers=[_router(noun, made) for noun, made in built],
        guards=[auth.Gate(identification, RequestLimits(services.clock)), query_strings],
        dependencies={
            "caller": Provide(auth.provide_caller, sync_to_thread=False),
            "identity": Provide(auth.provide_identity, sync_to_thread=False),
            "identification": _constant(identification),
            "cursors": _constant(Cursors(services.secret_key)),
            "once": _constant(Once(services.database)),
        },
        request_class=APIRequest,
        request_max_body_size=edge.BODY_BYTES_MAX,
        exception_handlers=problems.HANDLERS,
        before_send=[edge.headers_hook(https=services.public_url.startswith("https:"), methods=methods)],
        lifespan=[_lifespan(built)],
        openapi_config=None,  # which would add routes of its own; description.py describes the app
        state=State({"nouns": tuple(nouns)}),
        # The process that runs us has configured logging.
        logging_config=None,
        debug=False,
    )
    for handler, paths in handlers_of(app):
        auth.check_declared(handler, paths)
        for path in paths:
            methods.setdefault(path, {"OPTIONS"}).update(getattr(handler, "http_methods", ()))
    query_strings.learn(app)
    return app


def _router(noun: Noun, made: Built) -> Router:
    return Router(
        path=noun.prefix,
        route_handlers=list(noun.handlers),
        dependencies={name: _constant(service) for name, service in made.items()},
        tags=[noun.tag],
    )


def _constant(value: Any) -> Provide:
    return Provide(lambda: value, sync_to_thread=False)


def _lifespan(built: Sequence[tuple[Noun, Built]]) -> Any:
    @asynccontextmanager
    async def run(_: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for noun, made in built:
                if noun.lifespan is not None:
                    await stack.enter_async_context(noun.lifespan(made))
            yield

    return run
