"""Tells Python that Kumo is installed in an environment, by the metadata that an installation would have left. Standard library only.

Programs ask importlib.metadata for their version; nothing else of an installation is needed.
"""

import tomllib
from pathlib import Path

from deploy.layout import CHECKOUT


def record(site: Path) -> None:
    """Write Kumo's name and version into the directory of packages `site`."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    for old in site.glob("kumo-*.dist-info"):
        if old.name != f"kumo-{project['version']}.dist-info":
            (old / "METADATA").unlink(missing_ok=True)
            old.rmdir()
    folder = site / f"kumo-{project['version']}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kumo\nVersion: {project['version']}\n")
