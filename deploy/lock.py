"""`make lock`: writes requirements.lock and requirements-dev.lock from pyproject.toml, with digests, from PyPI alone.

What this machine's own configuration of uv or pip prefers (other indexes, local wheels) does not reach the locks.
"""

import os
import subprocess
import sys
from pathlib import Path

from deploy.layout import CHECKOUT

INDEX = "https://pypi.org/simple"
RUN, DEVELOP = "requirements.lock", "requirements-dev.lock"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def _compile(output: str, *more: str) -> None:
    command: list[str | Path] = [Path(sys.executable).with_name("uv"), "pip", "compile", "--no-config", "--quiet", "--default-index", INDEX]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--no-annotate"]
    command += ["--custom-compile-command", "make lock", "pyproject.toml", "--output-file", output, *more]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_"))}
    environment.setdefault("SSL_CERT_FILE", CERTIFICATES)
    subprocess.run(command, check=True, cwd=CHECKOUT, env=environment, timeout=600)


if __name__ == "__main__":
    _compile(RUN)
    _compile(DEVELOP, "--group", "dev", "--constraint", RUN)
