"""Make README readable outside the repository: on a package index a relative link leads nowhere.

Hatchling runs this when it builds the metadata. Where pyproject.toml names the repository, under
``[project.urls] Repository``, links and pictures get addresses there. Until it does, the text of each link
stays, and pictures go.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def for_an_index(text: str, repository: str | None) -> str:
    """Return Markdown whose links and pictures do not depend on where the text is shown."""

    def outside(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        if repository is None:
            return "" if picture else words
        return f"{picture}[{words}]({repository.rstrip('/')}/{'raw' if picture else 'blob'}/HEAD/{target})"

    return LINK.sub(outside, text)


class ReadmeHook(MetadataHookInterface):
    """Give README to the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the field ``readme``, which pyproject.toml declares to be dynamic."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_an_index(text, repository)}
