"""Properties of the choice of a cell, against a plain reading of the rules."""

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.region.cells.choose import Cell, Host, Wish, choose

NAMES = st.sampled_from("abcdef")
HOSTS = st.builds(Host, is_up=st.booleans(), free_vcpus=st.integers(-2, 8), free_memory_mib=st.integers(-64, 4096))
CELLS = st.lists(
    st.builds(Cell, name=NAMES, is_heard=st.booleans(), hosts=st.lists(HOSTS, max_size=4).map(tuple)),
    max_size=6,
    unique_by=lambda cell: cell.name,
)
SETS = st.frozensets(NAMES, max_size=3)
WISHES = st.builds(
    Wish, vcpus=st.integers(0, 4), memory_mib=st.integers(0, 2048), cells=st.lists(SETS, max_size=2).map(tuple), refused_by=SETS
)


@settings(deadline=None)
@given(wish=WISHES, cells=CELLS)
def test_the_chosen_cell_is_reached_heard_and_has_not_refused(wish: Wish, cells: list[Cell]) -> None:
    choice = choose(wish, cells)
    possible = [
        cell
        for cell in cells
        if cell.is_heard and cell.name not in wish.refused_by and all(not reach or cell.name in reach for reach in wish.cells)
    ]
    assert (choice.cell is not None) == bool(possible)
    assert set(choice.turned_down) == {cell.name for cell in cells} - {cell.name for cell in possible}
    if choice.cell is not None:
        chosen = next(cell for cell in possible if cell.name == choice.cell)
        assert chosen.places_for(wish.vcpus, wish.memory_mib) == max(cell.places_for(wish.vcpus, wish.memory_mib) for cell in possible)


@settings(deadline=None)
@given(wish=WISHES, cells=CELLS, data=st.data())
def test_the_order_of_cells_does_not_matter(wish: Wish, cells: list[Cell], data: st.DataObject) -> None:
    assert choose(wish, cells) == choose(wish, data.draw(st.permutations(cells)))


@settings(deadline=None)
@given(vcpus=st.integers(1, 8), memory_mib=st.integers(1, 4096), host=HOSTS)
def test_places_are_counted_as_if_servers_were_put_there_one_by_one(vcpus: int, memory_mib: int, host: Host) -> None:
    placed, free_vcpus, free_memory_mib = 0, host.free_vcpus, host.free_memory_mib
    while host.is_up and free_vcpus >= vcpus and free_memory_mib >= memory_mib:
        placed, free_vcpus, free_memory_mib = placed + 1, free_vcpus - vcpus, free_memory_mib - memory_mib
    assert Cell("a", True, (host,)).places_for(vcpus, memory_mib) == placed
