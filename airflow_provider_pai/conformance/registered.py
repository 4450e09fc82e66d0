"""The temporary model and its versions: creates them in PAI's registry, and removes them."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from typing import Any, TypeVar, cast

from airflow_provider_pai import api
from airflow_provider_pai.api.flow import Flow, Request
from airflow_provider_pai.api.model_records import ModelPage, VersionPage
from airflow_provider_pai.api.parameters import path
from airflow_provider_pai.conformance.asking import Answer, Asker, NotDecidable, short, surely_refused, until

__all__ = ["ACCURACY", "MOST_PAGES", "PREFIX", "URI", "Registered"]

PREFIX = "airflow-provider-pai-conformance-"
MOST_PAGES = 20
NAMED = "7.1.0_conformance"
"""The name of the version that is not left to PAI to name."""
URI = "https://example.com/airflow-provider-pai-conformance/a b?c=d#e"
"""Where no files are: a version needs an address, and nobody reads it."""
ACCURACY = {"Results": [{"Metrics": {"accuracy": 0.93}}]}

T = TypeVar("T")


class Registered(Asker):
    """Creates in PAI's registry what the checks need: each thing when a check first needs it, and once."""

    def __init__(self) -> None:
        super().__init__()
        self.mark = secrets.token_hex(4)
        self.name = f"{PREFIX}{self.mark}"
        self.model_id: str | None = None
        self.first_version_refused = ""
        """The error by which PAI refused a version of the new model."""
        self._version_names: list[str] = []
        self._maybe_model = False
        self._surely_model = False
        self._model_twin: str | None = None
        self._maybe_model_twin = False
        self._made: dict[str, tuple[Any, Exception | None]] = {}

    def workspace(self) -> Flow[str]:
        """Return the workspace to use."""
        raise NotImplementedError

    # --- making -------------------------------------------------------------------------------------------

    def model(self) -> Flow[str]:
        """Create the model, which carries ``conformance:<mark>``, and return its id."""

        def make() -> Flow[str]:
            workspace_id = yield from self.workspace()
            self._maybe_model = True
            try:
                self.model_id = yield from self.do(self._new_model(workspace_id))
            except api.PaiError as error:
                self._maybe_model = not surely_refused(error)
                raise
            return self.model_id

        return (yield from self._once("model", make))

    def model_twin(self) -> Flow[api.PaiApiError | None]:
        """Try to create a second model of the same name, and return the error by which PAI refused."""
        workspace_id = yield from self.workspace()
        yield from self.model()
        self._maybe_model_twin = True
        try:
            self._model_twin = yield from self.do(self._new_model(workspace_id))
        except api.PaiError as error:
            self._maybe_model_twin = not surely_refused(error)
            if isinstance(error, api.PaiApiError):
                return error
            raise
        return None

    def _new_model(self, workspace_id: str) -> Flow[str]:
        return api.create_model(self.name, workspace_id=workspace_id, labels={"conformance": self.mark})

    def version_gone(self) -> Flow[str]:
        """Create a version and delete it, to show that the key may delete versions. Return its name."""

        def make() -> Flow[str]:
            model_id = yield from self.model()
            name, _ = yield from until(self._first_version)
            if name is None:
                raise NotDecidable(
                    f"CreateModelVersion in the new model was refused: {self.first_version_refused}"
                )
            deleted, waited = yield from until(lambda wait: self._deleted_version(model_id, name, wait))
            if not deleted:
                raise NotDecidable(
                    f"DeleteModelVersion does not find the version that was created {waited:.0f} s before"
                )
            return name

        return (yield from self._once("version_gone", make))

    def _first_version(self, wait: float) -> Flow[str | None]:
        try:
            return (yield from self._make_version(wait=wait, version_name="0.0.1_gone"))
        except api.PaiNotFoundError as error:
            self.first_version_refused = self.first_version_refused or short(error)
            return None

    def _deleted_version(self, model_id: str, name: str, wait: float) -> Flow[bool | None]:
        try:
            yield from self.do(api.delete_model_version(model_id, name), wait=wait)
        except api.PaiNotFoundError:
            return None
        self._version_names.remove(name)
        return True

    def versions(self) -> Flow[list[str]]:
        """Create three versions, and return their names: PAI names the first two.

        The first has metrics; the second carries ``kept:1``, the third ``part:only-<mark>``.
        """

        def make() -> Flow[list[str]]:
            yield from self.version_gone()
            first = yield from self._make_version(metrics=ACCURACY)
            second = yield from self._make_version(labels={"kept": "1"})
            labels = {"part": f"only-{self.mark}"}
            third = yield from self._make_version(version_name=NAMED, labels=labels)
            return [first, second, third]

        return (yield from self._once("versions", make))

    def _make_version(self, *, wait: float = 0.0, **fields: Any) -> Flow[str]:
        model_id = yield from self.model()
        name = yield from self.do(api.create_model_version(model_id, URI, **fields), wait=wait)
        self._surely_model = True
        self._version_names.append(name)
        return name

    def list_models_page(self, query: dict[str, str], *, wait: float = 0.0) -> Flow[Answer[ModelPage]]:
        """Send ListModels with exactly these parameters."""
        return self.ask(Request(action="ListModels", path=path("models"), query=query), ModelPage, wait=wait)

    def list_versions_page(self, query: dict[str, str], *, wait: float = 0.0) -> Flow[Answer[VersionPage]]:
        """Send ListModelVersions with exactly these parameters."""
        target = path("models", (yield from self.model())) + "/versions"
        request = Request(action="ListModelVersions", path=target, query=query)
        return (yield from self.ask(request, VersionPage, wait=wait))

    def listed_versions(
        self, query: dict[str, str], *, wait: float = 0.0
    ) -> Flow[tuple[list[str], int | None]]:
        """Return the names on all pages of a listing of versions, by number, and the last TotalCount.

        :raises NotDecidable: no page is the last one.
        """
        names: list[str] = []
        for number in range(1, MOST_PAGES + 1):
            asked = {"SortBy": "GmtCreateTime", "Order": "ASC", "PageNumber": str(number), **query}
            page = (yield from self.list_versions_page(asked, wait=wait if number == 1 else 0.0)).must()
            names += [version.version_name for version in page.versions]
            if not page.versions or len(names) == page.total_count:
                return names, page.total_count
        raise NotDecidable(f"no page of versions is the last among {MOST_PAGES}")

    def shown_versions(self, query: dict[str, str], wanted: list[str]) -> Flow[list[str]]:
        """Return the names that a listing of versions shows, once it shows ``wanted``.

        :raises NotDecidable: it does not within a minute.
        """

        def attempt(wait: float) -> Flow[list[str] | None]:
            names, _ = yield from self.listed_versions(query, wait=wait)
            return names if {*names} >= {*wanted} else None

        shown, waited = yield from until(attempt)
        if shown is None:
            raise NotDecidable(f"ListModelVersions does not show {', '.join(wanted)} after {waited:.0f} s")
        return shown

    def named_models(self, *, wait: float = 0.0) -> Flow[list[str]]:
        """Return the ids of the models of this name that PAI lists."""
        workspace_id = yield from self.workspace()
        listing = api.list_models(workspace_id=workspace_id, name=self.name, page_size=10)
        return [found.model_id for found in (yield from self.do(listing, wait=wait))]

    def _once(self, what: str, make: Callable[[], Flow[T]]) -> Flow[T]:
        if what not in self._made:
            try:
                self._made[what] = (yield from make()), None
            except (api.PaiError, NotDecidable) as error:
                # Later checks that need it cannot be decided. They do not count as further faults of PAI.
                permanent = isinstance(error, api.PaiPermissionError)
                self._made[what] = None, error if permanent else NotDecidable(str(error))
                raise
        value, failure = self._made[what]
        if failure is not None:
            raise failure
        return cast("T", value)

    # --- removing -----------------------------------------------------------------------------------------

    @property
    def model_left(self) -> str:
        """Describe what PAI's registry may still hold; empty where it holds nothing."""
        if not self._maybe_model:
            return ""
        twin = ", and perhaps another of this name" if self._maybe_model_twin else ""
        return f"the model {self.model_id}{twin}" if self.model_id else f"perhaps a model {self.name}"

    def _remove_model(self, wait: float) -> Flow[None]:
        if not self._maybe_model:
            return
        if self.model_id is None or self._maybe_model_twin:
            shown = yield from self._shown_models(wait)
            wait = 0.0
            if self.model_id is None:
                self.model_id, self._surely_model = shown[0], True
            for twin in {*shown, *filter(None, [self._model_twin])} - {self.model_id}:
                yield from self._remove_one(twin)
            self._model_twin, self._maybe_model_twin = None, False
        try:
            yield from self._remove_one(self.model_id, self._version_names, wait=wait)
        except api.PaiNotFoundError:
            if not self._surely_model:
                raise
        self._maybe_model = False

    def _shown_models(self, wait: float) -> Flow[list[str]]:
        """Return what PAI lists under the name. Wait for what was not answered to show."""
        known = {*filter(None, [self.model_id, self._model_twin])}
        complete = self.model_id is not None and self._model_twin is not None

        def attempt(pause: float) -> Flow[list[str] | None]:
            shown = yield from self.named_models(wait=max(wait, pause))
            return shown if complete or {*shown} - known else None

        shown, _ = yield from until(attempt)
        if not shown and self.model_id is None:
            raise NotDecidable("no model of this name shows")
        return shown or []

    def _remove_one(self, model_id: str, names: list[str] | None = None, *, wait: float = 0.0) -> Flow[None]:
        listed: list[str] = []
        with contextlib.suppress(api.PaiApiError):  # where it matters, DeleteModel is refused too
            versions = yield from self.do(api.list_model_versions(model_id, page_size=10), wait=wait)
            listed = [version.version_name for version in versions]
        for name in dict.fromkeys([*(names or []), *listed]):
            with contextlib.suppress(api.PaiNotFoundError):
                yield from self.do(api.delete_model_version(model_id, name))
        yield from self.do(api.delete_model(model_id))
