"""What lies in a pool is sorted out: removed only if a tombstone proves it ours and gone."""

from hypothesis import given
from hypothesis import strategies as st

from controller.cell.storage.volume.audit import judge

_UIDS = st.frozensets(st.sampled_from("abcdef"))


@given(listed=_UIDS, recorded=_UIDS, made=_UIDS, ended=_UIDS)
def test_only_what_ended_here_and_is_not_recorded_is_called_leaked(
    listed: frozenset[str], recorded: frozenset[str], made: frozenset[str], ended: frozenset[str]
) -> None:
    findings = judge(listed, recorded, made, ended)
    assert set(findings.leaked) == {uid for uid in listed if uid in ended and uid not in recorded}
    assert set(findings.unknown) == {uid for uid in listed if uid not in ended and uid not in recorded}
    assert set(findings.missing) == {uid for uid in made if uid in recorded and uid not in listed}
