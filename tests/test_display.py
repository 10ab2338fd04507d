"""What is shown keeps its content in text, and plots have Korean glyphs without a download."""

import warnings

import pytest

from workshop_lib.display import chips, number, pyplot, table


def test_chips_show_the_same_pieces_in_text_and_html():
    shown = chips(["나는", " <b>", "\n"], title="조각")
    assert repr(shown) == "조각 (3): 나는|␣<b>|⏎"
    assert "&lt;b&gt;" in shown._repr_html_() and "<script" not in shown._repr_html_()


def test_chips_of_bytes_show_no_space_that_the_text_does_not_have():
    assert repr(chips(["<20 EB>", " 친"])) == "<20 EB>|␣친"


def test_a_table_is_aligned_in_text_although_hangul_is_wide():
    shown = table([{"이름": "가나다", "값": 1234.5}, {"이름": "a", "값": 0.25}])
    lines = repr(shown).splitlines()
    assert lines == ["이름    값", "가나다  1,234", "a       0.25"]
    assert shown._repr_html_().count("<tr>") == 3


@pytest.mark.parametrize("value, shown", [(1234567, "1,234,567"), (0.12345, "0.1235"), (1e-5, "1.00e-05"), (True, "True"), ("가", "가")])
def test_numbers_read_well(value, shown):
    assert number(value) == shown


def test_korean_labels_are_drawn_without_a_missing_glyph(tmp_path):
    plt = pyplot()
    figure, axes = plt.subplots()
    axes.set(xlabel="학습 토큰", ylabel="문자당 비트(BPC)", title="−3 한글")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "plot.png")
    plt.close(figure)
