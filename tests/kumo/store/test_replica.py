"""The replica of a table against a plain dictionary, for any history of puts and deletes."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from kumo.store.etcd import kv_pb2
from kumo.store.history import FellBehind, History
from kumo.store.keys import Keys
from kumo.store.replica import Replica
from kumo.store.token import Position
from tests.kumo.store.record_pb2 import Thing

KEYS = Keys("/test")
PREFIX = KEYS.records("thing")


@dataclass(frozen=True)
class Write:
    """What one transaction does to one record: an intent of this color, a status of this state, or its end if both are None."""

    uid: int
    color: str | None
    state: str | None


WRITES = st.builds(Write, st.integers(0, 4), st.sampled_from([None, "", "red", "blue"]), st.sampled_from([None, "up", "down"]))
HISTORIES = st.lists(st.lists(WRITES, min_size=1, max_size=3, unique_by=lambda write: write.uid), max_size=15)


def replica() -> Replica[Thing]:
    return Replica(Thing, PREFIX, {"color": lambda thing: [thing.spec.color]})


def key_value(uid: str, part: str, message: Thing, revision: int) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(key=KEYS.part("thing", uid, part), value=message.SerializeToString(), mod_revision=revision)


def events(model: dict[str, Thing], write: Write, revision: int) -> list[kv_pb2.Event]:
    """Apply `write` to the model as the store would, and return what etcd would tell of it."""
    uid, name = f"u{write.uid}", f"things/{4 - write.uid}"
    if write.color is None and write.state is None:
        if model.pop(uid, None) is None:
            return []
        gone = [kv_pb2.KeyValue(key=KEYS.part("thing", uid, part), mod_revision=revision) for part in ("intent", "status")]
        return [kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=item) for item in gone]
    told: list[kv_pb2.Event] = []
    if write.color is not None or uid not in model:
        spec = Thing.Spec(color=write.color or "")
        old = model.get(uid)
        model[uid] = Thing(name=name, uid=uid, spec=spec, status=old.status if old and old.HasField("status") else None)
        told.append(kv_pb2.Event(kv=key_value(uid, "intent", Thing(name=name, uid=uid, spec=spec), revision)))
    if write.state is not None:
        model[uid].status.state = write.state
        told.append(kv_pb2.Event(kv=key_value(uid, "status", Thing(status=Thing.Status(state=write.state)), revision)))
    return told


def contents(of: Replica[Thing]) -> dict[str, Thing]:
    return {uid: Thing.FromString(entry.intent + entry.status) for uid, entry in of.entries.items()}


@given(HISTORIES)
def test_a_replica_follows_any_history(history: list[list[Write]]) -> None:
    followed, model = replica(), dict[str, Thing]()
    followed.load([], 1)
    for revision, writes in enumerate(history, start=2):
        told = [event for write in writes for event in events(model, write, revision)]
        steps = list(followed.apply(told))
        followed.advance(revision)
        assert all(step.revision == revision and step.since == revision - 1 for step in steps)
        assert contents(followed) == model
        assert followed.names == sorted(record.name for record in model.values())
        for color in ("red", "blue"):
            found = {entry.uid for entry in followed.find("color", color)}
            assert found == {uid for uid, record in model.items() if record.spec.color == color}


@given(HISTORIES, st.integers(0, 15))
def test_the_difference_of_two_states_leads_from_one_to_the_other(history: list[list[Write]], until: int) -> None:
    followed, model = replica(), dict[str, Thing]()
    followed.load([], 1)
    before = replica()
    before.load([], 1)
    for revision, writes in enumerate(history, start=2):
        told = [event for write in writes for event in events(model, write, revision)]
        list(followed.apply(told))
        if revision <= until:
            list(before.apply(told))
    state = dict(before.entries)
    step = before.difference(followed)
    for delta in step.deltas:
        assert state.get(delta.uid) == delta.before
        if delta.after is None:
            del state[delta.uid]
        else:
            state[delta.uid] = delta.after
    assert state == followed.entries and step.is_bridge


@given(HISTORIES, st.integers(1, 6), st.integers(1, 20))
def test_a_history_gives_all_steps_after_a_place_or_says_that_it_cannot(history: list[list[Write]], most: int, place: int) -> None:
    followed, model, kept = replica(), dict[str, Thing](), History(1, most_steps=most)
    followed.load([], 1)
    steps = []
    for revision, writes in enumerate(history, start=2):
        told = [event for write in writes for event in events(model, write, revision)]
        for step in followed.apply(told):
            if step.deltas:
                steps.append(step)
                kept.append(step)
    wanted = [step for step in steps if step.revision > place]
    try:
        number = kept.number_after(Position(place))
    except FellBehind:
        assert len(wanted) > most
    else:
        assert [kept.step(one) for one in range(number, kept.end)] == wanted
