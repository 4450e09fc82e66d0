"""The temporary experiment and its runs: creates them in PAI, and removes them.

PAI may carry out a request although its answer never comes. So the experiment has a unique name, and the
clean-up asks PAI what there is, besides what this process remembers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from airflow_provider_pai import api
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.api.models import Run, RunPage
from airflow_provider_pai.conformance import asking
from airflow_provider_pai.conformance.asking import (
    Answer,
    Listing,
    NotDecidable,
    short,
    surely_refused,
    until,
)
from airflow_provider_pai.conformance.registered import MOST_PAGES, Registered

__all__ = ["MOST_PAGES", "Scene"]

ENDINGS = "caebd"
"""The ends of the runs' names, in another order than that of their creation."""


class Scene(Registered):
    """Creates in PAI what the checks need: each thing when a check first needs it, and only once."""

    def __init__(self, workspace_id: str | None, artifact_uri: str | None = None) -> None:
        super().__init__()
        self.experiment_id: str | None = None
        self.run_ids: list[str] = []
        """Runs that were created and not removed."""
        self.first_run_refused = ""
        """The error by which PAI refused a run in the new experiment."""
        self._workspace_id = workspace_id
        self._artifact_uri = artifact_uri
        self._maybe_made = False
        self._surely_there = False
        self._twin_id: str | None = None
        self._maybe_twin = False
        self._by_name = False

    @classmethod
    def left_behind(cls, name: str, workspace_id: str | None) -> Scene:
        """Return the scene that an earlier command left under this name, to remove it."""
        scene = cls(workspace_id)
        scene.name, scene._by_name = name, True
        scene._maybe_made = scene._maybe_model = True
        return scene

    # --- making -------------------------------------------------------------------------------------------

    def workspace(self) -> Flow[str]:
        """Return the workspace to use, which is PAI's default workspace unless one was named."""
        if self._workspace_id is None:
            self._workspace_id = yield from self.default_workspace()
        return self._workspace_id

    def default_workspace(self) -> Flow[str]:
        """Return PAI's default workspace."""
        default = yield from self.do(api.get_default_workspace())
        return default.workspace_id

    def experiment(self) -> Flow[str]:
        """Create the experiment and return its id. After an interruption it counts as created."""

        def make() -> Flow[str]:
            workspace_id = yield from self.workspace()
            self._maybe_made = True
            try:
                self.experiment_id = yield from self.do(self._new_experiment(workspace_id))
            except api.PaiError as error:
                self._maybe_made = not surely_refused(error)
                raise
            return self.experiment_id

        return (yield from self._once("experiment", make))

    def twin(self) -> Flow[api.PaiApiError | None]:
        """Try to create a second experiment of the same name, and return the error by which PAI refused."""
        workspace_id = yield from self.workspace()
        yield from self.experiment()
        self._maybe_twin = True
        try:
            self._twin_id = yield from self.do(self._new_experiment(workspace_id))
        except api.PaiError as error:
            self._maybe_twin = not surely_refused(error)
            if isinstance(error, api.PaiApiError):
                return error
            raise
        return None

    def _new_experiment(self, workspace_id: str) -> Flow[str]:
        return api.create_experiment(self.name, workspace_id=workspace_id, artifact_uri=self._artifact_uri)

    def named(self, *, wait: float = 0.0) -> Flow[list[str]]:
        """Return the ids of the experiments of this name that PAI lists."""
        workspace_id = yield from self.workspace()
        listing = api.list_experiments(workspace_id=workspace_id, name=self.name)
        return [found.experiment_id for found in (yield from self.do(listing, wait=wait))]

    def gone(self) -> Flow[str]:
        """Create a run and delete it, to show that the key may delete runs. Return its id."""

        def make() -> Flow[str]:
            yield from self.experiment()
            run_id, _ = yield from until(self._first_run)
            if run_id is None:
                raise NotDecidable(f"CreateRun in the new experiment was refused: {self.first_run_refused}")
            deleted, waited = yield from until(lambda wait: self._deleted(run_id, wait))
            if not deleted:
                raise NotDecidable(f"DeleteRun does not find the run that was created {waited:.0f} s before")
            return run_id

        return (yield from self._once("gone", make))

    def _deleted(self, run_id: str, wait: float) -> Flow[bool | None]:
        try:
            yield from self.do(api.delete_run(run_id), wait=wait)
        except api.PaiNotFoundError:
            return None
        self.run_ids.remove(run_id)
        return True

    def _first_run(self, wait: float) -> Flow[str | None]:
        try:
            return (yield from self._make_run("gone", wait=wait))
        except api.PaiNotFoundError as error:
            self.first_run_refused = self.first_run_refused or short(error)
            return None

    def make_run(
        self, ending: str, *, labels: dict[str, str], params: dict[str, str] | None = None
    ) -> Flow[str]:
        """Create a run whose name ends with ``ending``, and return its id."""
        yield from self.gone()
        return (yield from self._make_run(ending, labels, params))

    def _make_run(
        self,
        ending: str,
        labels: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        *,
        wait: float = 0.0,
    ) -> Flow[str]:
        experiment_id = yield from self.experiment()
        name = f"{self.name}-{ending}"
        flow = api.create_run(experiment_id, name=name, labels=labels or None, params=params or None)
        run_id = yield from self.do(flow, wait=wait)
        self._surely_there = True
        self.run_ids.append(run_id)
        return run_id

    def runs(self) -> Flow[list[Run]]:
        """Create five runs and return them as ListRuns shows them, in the order of their creation.

        The first and the second carry ``conformance:<mark>``, and ``part:a`` or ``part:b``; the third
        ``conformance:<mark>-more``; the others no label. The first has the params ``{"p": "1"}``.

        :raises NotDecidable: they do not show within a minute.
        """

        def make() -> Flow[list[Run]]:
            labels: list[dict[str, str]] = [
                {"conformance": self.mark, "part": "a"},
                {"conformance": self.mark, "part": "b"},
                {"conformance": f"{self.mark}-more"},
                {},
                {},
            ]
            ids: list[str] = []
            for ending, carried in zip(ENDINGS, labels, strict=True):
                params = {} if ids else {"p": "1"}
                ids.append((yield from self.make_run(ending, labels=carried, params=params)))
            return (yield from self.visible(ids))

        return (yield from self._once("runs", make))

    def visible(self, ids: list[str]) -> Flow[list[Run]]:
        """Wait until ListRuns shows these runs, and return them in this order."""

        def attempt(wait: float) -> Flow[dict[str, Run] | None]:
            listing = yield from self.listing({}, wait=wait)
            if listing.error is not None and not isinstance(listing.error, api.PaiNotFoundError):
                raise listing.error
            found = {run.run_id: run for run in listing.runs}
            return found if found.keys() >= set(ids) else None

        found, waited = yield from until(attempt)
        if found is None:
            raise NotDecidable(f"ListRuns does not show the new runs after {waited:.0f} s")
        return [found[run_id] for run_id in ids]

    def listing(self, query: dict[str, str | None], *, wait: float = 0.0) -> Flow[Listing]:
        """List the runs of the experiment, oldest first, with details, unless ``query`` says otherwise.

        ``None`` leaves a parameter out.
        """
        usual: dict[str, str | None] = {
            "WorkspaceId": (yield from self.workspace()),
            "ExperimentId": self.experiment_id or (yield from self.experiment()),
            "Verbose": "true",
            "OrderBy": "GmtCreateTime ASC",
        }
        asked = {name: value for name, value in {**usual, **query}.items() if value is not None}
        pages: list[Answer[RunPage]] = []
        tokens: list[str] = []
        while len(pages) < MOST_PAGES:
            page = yield from self.list_page(asked, wait=wait)
            if page.error is not None:
                return Listing(pages, error=page.error)
            pages.append(page)
            token = page.must().next_token
            if not token or token in tokens:
                return Listing(pages, repeated=token, whole=not token)
            tokens.append(token)
            asked, wait = {**asked, "PageToken": token}, 0.0
        return Listing(pages)

    def pages_of_two(self) -> Flow[Listing]:
        """List the five runs in pages of two, once."""

        def make() -> Flow[Listing]:
            yield from self.runs()
            return (yield from self.listing({"MaxResults": "2"}))

        return (yield from self._once("pages_of_two", make))

    # --- removing -----------------------------------------------------------------------------------------

    @property
    def made_something(self) -> bool:
        """Whether PAI may hold something that this command created."""
        return self._maybe_made or self._maybe_model

    @property
    def left(self) -> str:
        """Describe what PAI may still hold."""
        return ", and ".join(filter(None, [self._experiment_left, self.model_left]))

    @property
    def _experiment_left(self) -> str:
        if not self._maybe_made:
            return ""
        if self.experiment_id is None:
            return f"perhaps an experiment {self.name} in workspace {self._workspace_id}"
        runs = f" and its runs {', '.join(self.run_ids)}" if self.run_ids else ""
        twin = ", and perhaps another of this name" if self._maybe_twin else ""
        where = f"{self.name}, workspace {self._workspace_id}"
        return f"the experiment {self.experiment_id} ({where}){runs}{twin}"

    def remove(self) -> Flow[str]:
        """Remove everything. Return why something is left, or an empty text."""
        model = yield from self._patiently(self._remove_model)
        if self._by_name and self.model_id is None:  # the name was perhaps given to an experiment alone
            self._maybe_model, model = False, ""
        experiment = yield from self._patiently(self._remove_experiment)
        if self._by_name and self.model_id is not None and self.experiment_id is None:
            self._maybe_made, experiment = False, ""
        return "; ".join(filter(None, [experiment, model]))

    def _patiently(self, removal: Callable[[float], Flow[None]]) -> Flow[str]:
        """Repeat a removal for a minute, since PAI may show late what it has just created.

        Return why something is left, or an empty text.
        """
        problem = ""
        for pause in asking.PAUSES:
            try:
                yield from removal(pause)
                return ""
            except (api.PaiError, NotDecidable) as error:
                problem = str(error)
                if isinstance(error, (api.PaiPermissionError, api.PaiAuthenticationError)):
                    return problem
        return problem

    def _remove_experiment(self, wait: float) -> Flow[None]:
        if not self._maybe_made:
            return
        if self.experiment_id is None or self._maybe_twin:
            shown = yield from self._shown(wait)
            wait = 0.0
            if self.experiment_id is None:
                if not shown:
                    raise NotDecidable("no experiment of this name shows")
                self.experiment_id, self._surely_there = shown[0], True
            for twin in {*shown, *filter(None, [self._twin_id])} - {self.experiment_id}:
                yield from self._remove_twin(twin, is_there=twin in shown)
            self._twin_id, self._maybe_twin = None, False
        self.run_ids = yield from self._all_runs(wait)
        for run_id in list(self.run_ids):
            with contextlib.suppress(api.PaiNotFoundError):
                yield from self.do(api.delete_run(run_id))
            self.run_ids.remove(run_id)
        try:
            yield from self.do(api.delete_experiment(self.experiment_id))
        except api.PaiNotFoundError:
            if not self._surely_there:
                raise
        self._maybe_made = False

    def _shown(self, wait: float) -> Flow[list[str]]:
        """Return what PAI lists under the name. Wait for a twin whose creation was not answered to show."""
        try:
            shown = yield from self.named(wait=wait)
        except api.PaiPagingError:  # such as tokens that repeat
            if self.experiment_id is None or self._twin_id is None:
                raise
            return [self._twin_id]
        if self.experiment_id is None or self._twin_id is not None:
            return shown

        def attempt(wait: float) -> Flow[list[str] | None]:
            shown = yield from self.named(wait=wait)
            return shown if {*shown} - {self.experiment_id} else None

        twins, _ = yield from until(attempt)
        return twins or shown

    def _remove_twin(self, experiment_id: str, *, is_there: bool) -> Flow[None]:
        for run in (yield from self.listing({"Verbose": "false", "ExperimentId": experiment_id})).runs:
            if run.experiment_id == experiment_id:  # an earlier command's experiment may be the twin
                yield from self.do(api.delete_run(run.run_id))
        try:
            yield from self.do(api.delete_experiment(experiment_id))
        except api.PaiNotFoundError:
            if is_there:
                raise

    def _all_runs(self, wait: float) -> Flow[list[str]]:
        """Return the experiment's runs: those this process remembers, and those whose answer was lost."""
        try:
            listed = (yield from self.listing({"Verbose": "false"}, wait=wait)).runs
        except api.PaiPermissionError:
            listed = []
        ours = [run.run_id for run in listed if run.experiment_id == self.experiment_id]
        return list(dict.fromkeys([*self.run_ids, *ours]))
