"""Agents that are killed at random moments while the host's commands change, then one that is left to finish; a process of its own.

It forks an agent for each round, which an ordinary test cannot: the parent has no threads. Prints "settled" when the last one has
settled, and ends with the number of kills.

usage: python -m tests.agent.network.killed_agent DIRECTORY SEED ROUNDS
"""

import asyncio
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

from kumo.api.agent.v1.network_pb2 import PortFacts, RemotePort
from tests.agent.network.rig import FAR_ADDRESS, Rig, kernel_driver, running

# Few of each, so that they are removed and made again often; uids are used again, which only a test does.
NETWORKS = [f"01900000-0000-7000-8000-00000000000{n}" for n in range(3)]
PORTS = [f"01900000-0000-7000-9000-0000000000{n:02d}" for n in range(8)]


async def change(rig: Rig, rng: random.Random) -> None:
    """Give random commands, as a leader does whose network is there before its ports."""
    wanted = {network: rng.random() < 0.7 for network in NETWORKS}
    for number, network in enumerate(NETWORKS):
        if wanted[network]:
            count = rng.randrange(4)
            remotes = [
                RemotePort(mac=f"02:bb:00:00:0{number}:{n:02x}", addresses=[f"10.0.0.{200 + n}"], tunnel_address=FAR_ADDRESS)
                for n in range(count)
            ]
            await rig.put_network(network, 0x100 + number, mtu=rng.choice([1400, 1450]), remotes=tuple(remotes))
    for number, port in enumerate(PORTS):
        network = NETWORKS[number % len(NETWORKS)]
        if wanted[network] and rng.random() < 0.7:
            server = f"01900000-0000-7000-a000-0000000000{number:02d}"
            await rig.put_port(port, network, f"02:aa:00:00:00:{number:02x}", f"10.0.0.{10 + number}", server_uid=server)
        elif port in rig.ports.held:
            await rig.drop_port(port)
    for network in NETWORKS:
        if not wanted[network] and network in rig.networks.held:
            await rig.drop_network(network)


def make_rig(directory: Path) -> Rig:
    return Rig(directory, kernel_driver(directory, directory / "ns"), responder=directory / "nobody.sock")


def is_settled(rig: Rig) -> bool:
    kept = rig.networks.held.items()
    wanted = {uid: PortFacts.BOUND if command.HasField("desired") else PortFacts.ABSENT for uid, command in rig.ports.held.items()}
    found = {uid: rig.facts[uid].binding for uid in wanted if uid in rig.facts}
    return found == wanted and rig.guests.networks().keys() == {uid for uid, command in kept if command.HasField("desired")}


async def agent(directory: Path, rng: random.Random | None, told: int = -1) -> None:
    """Run an agent: to be killed when it is told to change something, else until it has settled. `told` is closed when it was told all."""
    async with running(make_rig(directory)) as rig:
        if rng is not None:
            await change(rig, rng)
            os.close(told)
            await asyncio.Event().wait()
        await rig.wait(lambda: is_settled(rig), deadline_s=30)


def main(directory: Path, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    for number in range(rounds):
        heard, told = os.pipe()
        child = os.fork()
        if not child:
            asyncio.run(agent(directory, random.Random(seed * 1000 + number), told))
        os.close(told)
        if number % 2:
            select.select([heard], [], [], 30)  # half of them in the midst of their work, however slow the machine is
        os.close(heard)
        time.sleep(rng.uniform(0.02, 0.25))  # the random moment itself
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    asyncio.run(agent(directory, None))
    print("settled", rounds, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
