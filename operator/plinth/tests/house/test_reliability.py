"""The document of faults shows what was measured."""

from fault_table import BEGIN, DOCUMENT, END, RESULTS, render_table


def test_the_table_of_faults_is_the_one_that_was_measured() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert table.strip() == render_table(RESULTS.read_text(encoding="utf-8")).strip()
