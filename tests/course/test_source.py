"""Excerpts of the operator's sources, as pages show them."""

import pytest

from ddetr.course.source import excerpt


@pytest.mark.parametrize(
    ("file", "name", "first", "last"),
    [
        ("cuda/ms_deform_attn.cu", "forward_kernel", "template <int N, int SIZE, typename scalar_t", "}"),
        ("cuda/ms_deform_attn.cu", "broadcast", "template <typename T>", "}"),
        ("cuda/head.h", "gather", "// sum += weight * (what the point reads)", "}"),
        ("geometry.h", "Accumulate", "// Sums of half-precision numbers", "};"),
        ("geometry.h", "locate", "// (x, y): cells of an h by w map", "}"),
        ("cpu/backward.cpp", "parallel_for(0, sizes.B * M", "at::parallel_for(", "});"),
    ],
)
def test_a_definition_from_its_comment_to_its_brace(file, name, first, last):
    head, *lines = excerpt(file, name).split("\n")
    assert head.startswith(f"// csrc/{file}, line ")
    assert lines[0].startswith(first)
    assert lines[-1] == last
    text = "\n".join(lines)
    assert name in text
    assert text.count("{") == text.count("}") > 0


def test_the_line_is_where_it_stands_in_the_file():
    from ddetr.ops import native

    head, first, *_ = excerpt("cuda/head.h", "scatter").split("\n")
    lines = (native.source_dir() / "cuda/head.h").read_text().split("\n")
    assert lines[int(head.split()[-1]) - 1] == first


def test_what_is_for_the_preprocessor_stays_at_the_margin():
    lines = excerpt("cuda/ms_deform_attn.cu", "add").split("\n")
    assert any(line.startswith("#if defined") for line in lines)
    assert lines[1].startswith("template")


@pytest.mark.parametrize(
    ("file", "name", "words"),
    [
        ("cuda/head.h", "nothing_like_it", "defines no 'nothing_like_it'"),
        ("cuda/none.cu", "gather", "no file 'cuda/none.cu'"),
    ],
)
def test_what_is_not_there(file, name, words):
    with pytest.raises(ValueError, match=words):
        excerpt(file, name)
