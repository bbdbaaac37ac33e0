"""Judges every call of a worker by its caller's certificate (client_names.py).

Health and reflection too, and before anything of a call is read.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from grpc import aio

from workers.client_names import is_named

ALTERNATIVE_NAMES: Final = "x509_subject_alternative_name"  # of gRPC's authentication context
KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

Context = aio.ServicerContext[Any, Any]


class NamedCallers(aio.ServerInterceptor):
    """Refuses calls of those whose certificate does not have the name ``wanted``."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The same kind of handler, which judges first."""
        handler = await continuation(handler_call_details)
        for kind in KINDS:
            behaviour = getattr(handler, kind, None)  # no handler: there is no such method
            if behaviour is not None:
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                serializers = handler.request_deserializer, handler.response_serializer
                return make(self._judged(behaviour), *serializers)
        return handler

    def _judged(self, behaviour: Any) -> Any:
        """gRPC calls generators and coroutines differently, and tells them by what they are."""
        if inspect.isasyncgenfunction(behaviour):

            async def generator(request: Any, context: Context) -> AsyncIterator[Any]:
                await self._judge(context)
                async for response in behaviour(request, context):
                    yield response

            return generator

        async def coroutine(request: Any, context: Context) -> Any:
            await self._judge(context)
            return await behaviour(request, context)

        return coroutine

    async def _judge(self, context: Context) -> None:
        found = context.auth_context().get(ALTERNATIVE_NAMES, ())
        if not is_named((name.decode(errors="replace") for name in found), self._wanted):
            text = f"the certificate does not have the name {self._wanted}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
