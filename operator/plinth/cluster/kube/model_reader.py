"""Who looks into which source in a cluster.

The operator asks the hub, with the namespace's token. All else is asked of the inspector in a pool's Ray head, which
sees the files that the pool's replicas will have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pydantic import SecretStr

from plinth.api.v1alpha1 import ModelDeployment, Reason
from plinth.cluster.artifacts import read_artifact
from plinth.cluster.credentials import CredentialsError
from plinth.cluster.inspector_rest import InspectorRest
from plinth.cluster.model_reader import Answer, Question, make_question
from plinth.domain.fleet import ArtifactRefusal
from plinth.domain.sources import SourceScheme

READERS = 16
"""Repositories looked into at the same time; each waits for the hub most of the time."""
SEEN_IN_PODS = (SourceScheme.FILE, SourceScheme.PACKAGE, SourceScheme.VOLUME)

InspectorOf = Callable[[ModelDeployment], tuple[str, int] | None]
ReadToken = Callable[[str, str], Awaitable[str]]


class ClusterReadings:
    """The `Readings` of a cluster."""

    def __init__(
        self, *, inspectors: InspectorRest, inspector_of: InspectorOf, read_token: ReadToken
    ) -> None:
        """`inspector_of` knows where the pool of a model has its inspector, `read_token` reads `name/key`."""
        self._inspectors = inspectors
        self._inspector_of = inspector_of
        self._read_token = read_token
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="model-reader")

    async def close(self) -> None:
        """Let go of connections and threads."""
        await self._inspectors.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def question(self, model: ModelDeployment) -> Question:
        """See Readings. What a namespace's token or volume shows is shared within that namespace only."""
        namespace = model.metadata.namespace
        scheme = model.spec.model.source.partition("://")[0]
        if scheme not in SEEN_IN_PODS:
            return make_question(model, namespace=namespace if model.spec.model.credentials else "")
        found = self._inspector_of(model)
        return make_question(
            model,
            namespace=namespace if scheme == SourceScheme.VOLUME else "",
            reader=f"{found[0]}:{found[1]}" if found else None,
        )

    async def answer(self, question: Question) -> Answer | None:
        """See Readings."""
        if question.reader:
            return await self._inspectors.read(question.reader, question.source, question.revision)
        try:
            token = await self._token(question)
        except CredentialsError as error:
            return ArtifactRefusal(reason=Reason.MODEL_NOT_FOUND, message=f"spec.model.credentials: {error}")
        # The operator's own files are no source.
        read = partial(read_artifact, question.source, question.revision, token=token, places=None)
        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    async def _token(self, question: Question) -> SecretStr | None:
        if question.credentials is None:
            return None
        return SecretStr(await self._read_token(question.namespace, question.credentials))
