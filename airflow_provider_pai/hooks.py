"""PaiHook: turns an Airflow Connection into a client of PAI.

Every method that talks to PAI runs one flow of :mod:`airflow_provider_pai.api`, which makes all decisions.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_pai import api, connection, connection_form
from airflow_provider_pai._compat import (
    AirflowFailException,
    BaseHook,
    aget_connection,
    form_widgets,
    get_connection,
)
from airflow_provider_pai._verbs import verb
from airflow_provider_pai.api.arguments import check_filters, check_given
from airflow_provider_pai.api.experiments import ExperimentFilters
from airflow_provider_pai.api.flow import begun
from airflow_provider_pai.registry.methods import RegistryMethods

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from airflow_provider_pai.api.operations import Params
    from airflow_provider_pai.api.query import Labels, RunFilters
    from airflow_provider_pai.tracking.tracked_run import TrackedRun

__all__ = ["PaiHook", "permanent_errors_fail_the_task"]


class PaiHook(RegistryMethods, BaseHook):
    """Talk to PAI's experiment tracking and model registry with the key of an Airflow Connection.

    The hook reads the connection when it first needs it, never in ``__init__``.

    What it returns are records with attributes, such as :class:`~airflow_provider_pai.api.models.Run`. XCom
    holds plain JSON, so a task returns ``[run.to_dict() for run in PaiHook().list_runs(…)]``, which is what
    the operators and the sensor push. A task that returns a record itself fails, and the error says so.

    :param pai_conn_id: a connection of type ``pai``, or of type ``alibaba_cloud`` with a region.
    :param region: overrides the connection's region; refused where the connection names a host instead.
    :param workspace_id: overrides the connection's workspace. Without both PAI uses the default workspace.
    """

    conn_name_attr = "pai_conn_id"
    default_conn_name = "pai_default"
    conn_type = connection_form.CONNECTION_TYPE
    hook_name = "Alibaba Cloud PAI"

    def __init__(
        self,
        pai_conn_id: str = default_conn_name,
        *,
        region: str | None = None,
        workspace_id: str | int | None = None,
    ) -> None:
        super().__init__()
        self.pai_conn_id = pai_conn_id
        self.region = region
        self.workspace_id = workspace_id

    # --- clients ------------------------------------------------------------------------------------------

    @functools.cached_property
    def settings(self) -> connection.Settings:
        """The settings of the connection.

        :raises PaiConfigurationError: with the field of the connection to correct.
        """
        conn = get_connection(self.pai_conn_id)
        return connection.Settings.of(conn, conn.extra_dejson, self.region)

    @functools.cached_property
    def _client(self) -> api.PaiClient:
        return api.PaiClient(self.settings.endpoint, self.settings.credentials)

    def client(self) -> api.PaiClient:
        """Return the client of this hook: ``hook.client().run(flow)`` runs any flow of the API package."""
        return self._client

    get_conn = client  # the name that Airflow's hooks use

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[api.AsyncPaiClient]:
        """Open an async client: ``async with hook.async_client() as client: await client.run(flow)``.

        The look-up of the connection does not block the event loop.
        """
        settings = await self.asettings()
        async with api.AsyncPaiClient(settings.endpoint, settings.credentials) as client:
            yield client

    async def asettings(self) -> connection.Settings:
        """Read the connection again, without blocking the event loop, and return its settings."""
        conn, extra = await aget_connection(self.pai_conn_id)
        self.settings = connection.Settings.of(conn, extra, self.region)
        return self.settings

    def close(self) -> None:
        """Close the client's connections, if there is a client."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    def named_workspace(self, workspace_id: str | int | None = None) -> str | None:
        """Return the workspace that a call, this hook or the connection names, in this order."""
        found = workspace_id or self.workspace_id or self.settings.workspace_id
        if found is None:
            self.log.info("No workspace is named, so PAI answers for the default workspace.")
        return None if found is None else str(found)

    # --- runs ---------------------------------------------------------------------------------------------

    def query(self, **filters: Unpack[RunFilters]) -> api.RunQuery:
        """Return a query with these filters, in this hook's workspace unless they name another.

        A filter that is given was meant: leave it out to ask for any, ``None`` is refused.

        :raises PaiUsageError: a filter that cannot be asked. The text says what to write instead.
        """
        query = api.RunQuery.of(**filters)  # refuses wrong filters before the connection is read
        return msgspec.structs.replace(query, workspace_id=self.named_workspace(query.workspace_id))

    def list_runs(
        self, *, page_size: int = 100, max_runs: int | None = None, **filters: Unpack[RunFilters]
    ) -> list[api.Run]:
        """Return the runs that match, in order.

        Filters: run_id (one or several), workspace_id, experiment_id, name, source_type, source_id, labels
        (a dict or ``"key:value,key:value"``), created_after, created_before (aware times or ISO 8601
        texts), order_by (``"GmtCreateTime ASC"``), verbose (True; with labels it is always True). Leave
        one out to ask for any; ``None`` and ``{}`` are refused.

        :param page_size: how many runs one request asks for. PAI documents a default of 10 and no maximum.
        :param max_runs: how many runs to return at most.
        :raises PaiError: see :mod:`airflow_provider_pai.api.errors`.
        """

        def flow(query: api.RunQuery) -> api.Flow[list[api.Run]]:
            return api.list_runs(query, page_size=page_size, max_runs=max_runs)

        begun(flow(api.RunQuery.of(**filters)))  # refuses wrong arguments before the connection is read
        return self.client().run(flow(self.query(**filters)))

    def iter_runs(
        self, *, page_size: int = 100, max_runs: int | None = None, **filters: Unpack[RunFilters]
    ) -> Iterator[api.Run]:
        """Yield the runs that :meth:`list_runs` returns, holding one page at a time.

        In a long history ``created_after`` costs less with ``order_by="GmtCreateTime DESC"``: the listing
        then ends where the window begins.
        """
        api.walk_runs(api.RunQuery.of(**filters), page_size=page_size, max_runs=max_runs)  # as above
        listing = api.walk_runs(self.query(**filters), page_size=page_size, max_runs=max_runs)
        return self.client().iter(listing)

    def list_runs_page(self, **parameters: Any) -> api.RunPage:
        """Return one page as PAI answers it. Takes any of the 15 documented parameters in snake_case.

        name, workspace_id, experiment_id, source_type, source_id, labels, verbose, gmt_create_time,
        order_by, page_token, max_results, page_number, page_size, sort_by, order.

        :raises PaiUsageError: an unknown or malformed parameter, or two that contradict each other.
        """
        for name in parameters.keys() & {*api.RunQuery.__struct_fields__}:
            check_given(name, parameters[name])
        begun(api.list_runs_page(**parameters))  # refuses wrong parameters before the connection is read
        workspace_id = self.named_workspace(parameters.get("workspace_id"))
        return self.client().run(api.list_runs_page(**{**parameters, "workspace_id": workspace_id}))

    get_run = verb(api.get_run)
    create_run = verb(api.create_run)
    update_run = verb(api.update_run)
    set_run_labels = verb(api.set_run_labels)
    delete_run_label = verb(api.delete_run_label)
    delete_run = verb(api.delete_run)
    log_run_metrics = verb(api.log_run_metrics)
    list_run_metrics = verb(api.list_run_metrics)

    # --- experiments and workspaces -----------------------------------------------------------------------

    get_experiment = verb(api.get_experiment)
    update_experiment = verb(api.update_experiment)
    delete_experiment = verb(api.delete_experiment)
    set_experiment_labels = verb(api.set_experiment_labels)
    delete_experiment_label = verb(api.delete_experiment_label)
    list_workspaces = verb(api.list_workspaces)
    get_default_workspace = verb(api.get_default_workspace)

    def create_experiment(
        self,
        name: str,
        *,
        workspace_id: str | None = None,
        artifact_uri: str | None = None,
        accessibility: str | None = None,
        labels: Labels | None = None,
    ) -> str:
        """Create an experiment in this hook's workspace, or the default one, and return its id.

        PAI keeps names unique in a workspace, so a task that may run twice takes
        :meth:`get_or_create_experiment`.
        """
        given: dict[str, Any] = {"artifact_uri": artifact_uri, "accessibility": accessibility}
        make = functools.partial(api.create_experiment, name, labels=labels, **given)
        return self._in_workspace(make, workspace_id)

    def get_or_create_experiment(
        self,
        name: str,
        *,
        workspace_id: str | None = None,
        artifact_uri: str | None = None,
        accessibility: str | None = None,
        labels: Labels | None = None,
    ) -> str:
        """Return the id of the experiment of exactly this name, and create it where there is none.

        In this hook's workspace, or the default one. Tasks that do this at the same time get the same id. An
        experiment that exists stays as it is: ``artifact_uri``, ``accessibility`` and ``labels`` are for a
        new one. If PAI has several of that name, this returns the oldest. Where PAI shows a new
        experiment late, this waits for up to a minute.
        """
        given: dict[str, Any] = {"artifact_uri": artifact_uri, "accessibility": accessibility}
        make = functools.partial(api.get_or_create_experiment, name, labels=labels, **given)
        return self._in_workspace(make, workspace_id)

    def list_experiments(self, **filters: Unpack[ExperimentFilters]) -> list[api.Experiment]:
        """Return the experiments of this hook's workspace that match, oldest first.

        Filters: workspace_id, name, labels. Leave one out to ask for any; ``None`` and ``{}`` are refused.
        """
        check_filters(filters, ExperimentFilters.__annotations__)
        begun(api.list_experiments(**filters))  # refuses wrong arguments before the connection is read
        filters["workspace_id"] = self.named_workspace(filters.get("workspace_id"))
        return self.client().run(api.list_experiments(**filters))

    # --- tracking -----------------------------------------------------------------------------------------

    def track(
        self,
        experiment: str,
        *,
        name: str | None = None,
        labels: Labels | None = None,
        params: Params | None = None,
        scope: str = "task",
        key: str | None = None,
        strict: bool = False,
    ) -> TrackedRun:
        """Open a run that this task writes to: ``with PaiHook().track("digits") as run: run.log_metrics(…)``.

        The experiment is found by its name, or created; a task that runs again finds its run again. The run's
        params say where it comes from, and its label ``airflow_state`` how it ended. Its id is in XCom under
        ``pai_run_id``.

        :param name: the run's name, by default the task's.
        :param scope: ``dag_run`` for one run that all tasks of a DAG run write to.
        :param key: a text by which the next call finds the run again. Needed outside a task.
        :param strict: fail the task if logged values could not be delivered; else the log says how many.
        :raises PaiUsageError: what PAI would refuse, before anything is written.
        """
        from airflow_provider_pai.tracking.start import start

        return start(
            self, experiment, name=name, labels=labels, params=params, scope=scope, key=key, strict=strict
        )

    def find_runs(self, dag_run: Any) -> list[api.Run]:
        """Return the runs of a DAG run's tasks; ``dag_run`` may be its DAG's id and its own, as a tuple."""
        from airflow_provider_pai.tracking.identity import labels_of

        dag_id, run_id = (dag_run.dag_id, dag_run.run_id) if hasattr(dag_run, "run_id") else dag_run
        return self.list_runs(labels=labels_of((dag_id, run_id)))

    # --- for Airflow's Connections page -------------------------------------------------------------------

    def test_connection(self) -> tuple[bool, str]:
        """List one run, and return the workspace that answered and the time it took, or what to correct."""
        from airflow_provider_pai.connection_check import check

        return check(self)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Describe the standard fields of the form (Airflow 2.10 to 3.1; later ones read the metadata)."""
        return {name.replace("-", "_"): value for name, value in connection_form.FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Describe the form's own fields (Airflow 2.10 to 3.1; later ones read the metadata)."""
        return form_widgets(connection_form.FIELDS)


@contextmanager
def permanent_errors_fail_the_task() -> Iterator[None]:
    """Fail a task at once, without Airflow's retries, where a retry cannot succeed.

    A connection that is not found is left to Airflow's retries: Airflow says so too where a secrets backend
    did not answer.
    """
    try:
        yield
    except api.PaiError as error:
        if error.retryable:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error
