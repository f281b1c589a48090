"""`kumo doctor`: looks from the outside in, from the configuration to the hosts, and says what to do about what is wrong."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import click

from cli.contexts import Context, choose, load
from cli.failure import Exit, Failure
from cli.nouns import NOUNS
from cli.session import Session, pass_session
from cli.terminal import harmless, styled


@dataclass(frozen=True)
class Finding:
    """What one check saw; `fix` is empty where all is well."""

    what: str
    good: bool = True
    fix: str = ""


@click.command("doctor", help="Find out what is wrong between you and the cloud, and in it. Example: kumo doctor")
@pass_session
def command(session: Session) -> None:
    import sys

    bad = 0
    for check in (_configuration, _reachable, _serving, _fleet("host", "UP"), _fleet("pool", "ACTIVE"), _troubled):
        try:
            findings = check(session)
        except Failure as failure:
            findings = [Finding(f"{failure.what}: {failure.because}", False, failure.fix)]
        for finding in findings:
            mark = styled("✓", "green", sys.stdout) if finding.good else styled("✗", "red", sys.stdout)
            print(f"{mark} {harmless(finding.what)}")
            if not finding.good:
                bad += 1
                print(f"  fix: {harmless(finding.fix)}")
        if findings and not findings[-1].good and check in (_configuration, _reachable, _serving):
            break
    if bad:
        raise Failure(f"{bad} of the checks found something", "", "do what is said above, then run it again", Exit.FAILED)


def _configuration(session: Session) -> list[Finding]:
    context = choose(session.context_name, session.project)
    return [Finding(f'context "{context.name}" of {load().file}: {context.address}, project {context.project}')]


def _reachable(session: Session) -> list[Finding]:
    context = choose(session.context_name, session.project)
    host, _, port = context.address.rpartition(":")
    started = time.monotonic()
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except (OSError, ValueError) as error:
        return [Finding(f"{context.address} does not accept connections: {error}", False, _start_hint(context))]
    return [Finding(f"{context.address} accepts connections ({1000 * (time.monotonic() - started):.0f} ms)")]


def _start_hint(context: Context) -> str:
    return "make up" if context.address.startswith(("127.", "[::1]", "localhost")) else "ask whoever runs it, or: kumo context list"


def _serving(session: Session) -> list[Finding]:
    from grpc_health.v1 import health_pb2

    started = time.monotonic()
    answer = session.client.unary(
        "grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse, doing="ask for health"
    )
    took = 1000 * (time.monotonic() - started)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return [Finding("the region answers, and says that it does not serve", False, "look at its log: make logs")]
    return [Finding(f"the region serves, with a certificate of the context's CA ({took:.0f} ms)")]


def _fleet(singular: str, good_state: str) -> Callable[[Session], list[Finding]]:
    def check(session: Session) -> list[Finding]:
        from cli.output import cell
        from cli.read import listed

        noun = NOUNS[singular]
        items, _ = listed(session, noun, "")
        if not items:
            return [Finding(f"there is no {singular}", False, f"kumo {singular} create --help")]
        findings = []
        for item in items:
            state, own_id = cell(item, "status.state"), cell(item, "name")
            wrong = next((condition for condition in item.status.conditions if condition.status == 2), None)
            why = f": {wrong.operator_message or wrong.message}" if wrong is not None else ""
            fix = "\n       ".join([*([wrong.fix] if wrong is not None and wrong.fix else []), f"kumo {singular} show {own_id}"])
            findings.append(Finding(f"{singular} {own_id} is {state or 'unknown'}{why}", state == good_state and wrong is None, fix))
        return findings

    return check


def _troubled(session: Session) -> list[Finding]:
    """Servers that failed or wait; none is a good sign."""
    from cli.output import cell
    from cli.progress import progress
    from cli.read import listed

    noun = NOUNS["server"]
    items, _ = listed(session, noun, session.client.parent)
    findings = []
    for item in items:
        now = progress(noun, item, "settled")
        if now.failure is not None:
            findings.append(Finding(f"server {cell(item, 'name')}: {now.failure.because}", False, now.failure.fix))
        # What has no fix mends itself, such as a server that is just being started.
        elif now.obstacle and now.fix:
            findings.append(Finding(f"server {cell(item, 'name')} waits: {now.obstacle}", False, now.fix))
    return findings or [Finding(f"{len(items)} server{'s' if len(items) != 1 else ''}, none in trouble")]
