from dataclasses import replace

from plinth.desired.figures import measured_figures, predicted_figures
from plinth.domain.corrections import SpeedStretch
from plinth.domain.figures import Correction, EngineFigures, Prediction
from plinth.domain.fleet import SlotPhase
from plinth.domain.quantities import GIB
from plinth.tests.domain.builders import make_figures, make_memory_figures, make_slot
from plinth.tests.domain.test_figures import COMPUTED


def stretch(rate: int, revision: str = "aaaaaaaa") -> SpeedStretch:
    return SpeedStretch(revision=revision, in_flight=8, tokens_per_second=rate)


def test_the_newest_ready_replica_of_the_revision_speaks() -> None:
    slots = (
        make_slot(figures=make_figures(kv_tokens=1), start_milliseconds=9),
        make_slot(ordinal=1, figures=make_figures(kv_tokens=2), start_milliseconds=412),
        make_slot(ordinal=2, figures=make_figures(kv_tokens=3), phase=SlotPhase.STOPPING),
        make_slot("bbbbbbbb", 9, figures=make_figures(kv_tokens=4)),
        make_slot(ordinal=3),
    )
    measured = measured_figures("aaaaaaaa", slots, ())
    assert measured is not None
    assert (measured.kv_tokens, measured.start_milliseconds, measured.tokens_per_second) == (2, 412, None)


def test_graphs_are_told_as_part_of_the_overhead() -> None:
    memory = make_memory_figures(overhead_bytes=2 * GIB)
    measured = measured_figures(
        "aaaaaaaa", [make_slot(figures=EngineFigures(memory=memory, graph_bytes=GIB))], ()
    )
    assert measured is not None
    assert (measured.overhead_bytes, measured.graph_bytes) == (2 * GIB, GIB)


def test_the_fastest_stretch_is_shown_to_two_digits_so_that_steady_load_changes_nothing() -> None:
    for rates in ([2397, 2371, 90], [2412, 2388]):
        measured = measured_figures("aaaaaaaa", (), [*map(stretch, rates), stretch(9999, "bbbbbbbb")])
        assert measured is not None
        assert (measured.tokens_per_second, measured.concurrency) == (2400, 8)
    slow = measured_figures("aaaaaaaa", (), [stretch(7)])
    assert slow is not None
    assert slow.tokens_per_second == 7


def test_nothing_measured_is_no_section() -> None:
    assert measured_figures("aaaaaaaa", [make_slot()], [stretch(1, "bbbbbbbb")]) is None
    assert predicted_figures(None) is None


def test_predicted_throughput_is_what_is_planned_by_and_says_how_it_was_corrected() -> None:
    prediction = Prediction(memory=make_memory_figures(), computed=COMPUTED)
    plain = predicted_figures(prediction)
    corrected = predicted_figures(replace(prediction, correction=Correction(thousandths=850, stretches=6)))
    assert plain is not None
    assert corrected is not None
    assert (plain.tokens_per_second, plain.throughput_percent) == (2400, 100)
    assert (corrected.tokens_per_second, corrected.throughput_percent) == (2040, 85)
    assert (corrected.concurrency, corrected.ttft_p50_milliseconds) == (40, 700)
