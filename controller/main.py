"""The controller's program: runs the region's plane, a cell's plane, or both, as its configuration says. It wires and does nothing else."""

import asyncio
import signal
import sys
from pathlib import Path

import click

from controller.config import Config, split_address
from kumo import log, seccomp
from kumo.calls import no_programs
from kumo.config import load
from kumo.errors import Error
from kumo.memory import settle
from kumo.metrics import MetricsServer

logger = log.get_logger(__name__)


async def run(config: Config) -> None:
    """Run every plane that is configured until the process is told to end, or one of them cannot go on."""
    host, port = split_address(config.metrics)
    planes: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as tasks:
        loop = asyncio.get_running_loop()
        helpers = [tasks.create_task(MetricsServer("kumo-controller", host, port).run()), tasks.create_task(settle())]
        # Imported where they are run: a region's process does without the scheduler's arrays.
        if config.cell_plane is not None:
            from controller.cell.plane import run_cell

            planes.append(tasks.create_task(run_cell(config, config.cell_plane)))
        if config.region_plane is not None:
            from controller.region.plane import run_region

            planes.append(tasks.create_task(run_region(config, config.region_plane, store_tls=config.store_tls("region"))))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _end, planes)
        await asyncio.wait(planes)
        for helper in helpers:
            helper.cancel()


def _end(planes: list[asyncio.Task[None]]) -> None:
    logger.info("ending")
    for plane in planes:
        plane.cancel()


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The TOML file that says what to run.")
def main(path: Path) -> None:
    """Run a controller of a region, of a cell, or of both."""
    log.configure("kumo-controller")
    try:
        config = load(path, Config)
        log.configure("kumo-controller", level=config.log_level)
        if config.region_plane is None and config.cell_plane is None:
            raise click.UsageError(f"{path} has neither [region_plane] nor [cell_plane]")
        seccomp.install(no_programs())
        asyncio.run(run(config))
    except* Error as errors:
        for error in _leaves(errors):
            logger.error("controller cannot go on", reason=error.reason, why=error.message, fix=error.fix, **error.metadata)
        sys.exit(1)


def _leaves(group: BaseExceptionGroup[Error]) -> list[Error]:
    return [leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])]


if __name__ == "__main__":
    main()
