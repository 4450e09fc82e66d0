"""How a task notes what it reads and writes while it runs, and reports it to OpenLineage afterwards."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow_provider_pai.lineage.notes import Lineage

__all__ = ["ReportsLineage"]


class ReportsLineage:
    """A task that notes what it reads and writes, and reports it when OpenLineage asks."""

    log: Any
    _lineage: Lineage | None = None

    def note(self, hook: Any, **noted: Any) -> None:
        """Note more of what was read or written; by the names of :class:`Lineage`'s fields."""
        try:
            if self._lineage is None:
                settings = hook.settings
                place = settings.region or urlsplit(settings.endpoint).netloc
                self._lineage = Lineage(namespace=f"pai://{place}")
            for name, value in noted.items():
                if name == "verdict":
                    self._lineage.verdict = value
                else:
                    getattr(self._lineage, name).extend(value)
        except Exception:  # it only describes
            self.log.warning("OpenLineage does not receive all that this task did.", exc_info=True)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return what OpenLineage's provider for Airflow asks of an operator: an ``OperatorLineage``."""
        if self._lineage is None:
            return None
        try:
            from airflow_provider_pai.lineage.facets import operator_lineage

            return operator_lineage(self._lineage, self)
        except Exception:  # it only describes; without that provider nobody asks
            self.log.warning("OpenLineage does not receive what this task did.", exc_info=True)
            return None
