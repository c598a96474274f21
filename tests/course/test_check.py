"""The checks of the exercises: nothing passes that should not, and each typical mistake hears its own hint."""

import pytest
import torch

import ddetr.course
from ddetr.course.check import RAISED, RIGHT, UNATTEMPTED, WRONG, examine
from ddetr.course.compare import difference
from ddetr.course.exercises import exercise_names, find_exercise


@pytest.fixture(params=exercise_names())
def exercise(request):
    return find_exercise(request.param)


@pytest.fixture(params=[(name, i) for name in exercise_names() for i in range(len(find_exercise(name).mistakes))])
def mistake(request):
    name, index = request.param
    return find_exercise(name), find_exercise(name).mistakes[index]


def not_implemented(*_args):
    raise NotImplementedError


@pytest.mark.parametrize("stub", [not_implemented, lambda *_: None, lambda *_: ...])
def test_a_stub_does_not_pass(exercise, stub, capsys):
    verdict = examine(exercise.name, stub)
    assert verdict.state == UNATTEMPTED
    ddetr.course.check(exercise.name, stub)
    said = " ".join(capsys.readouterr().out.split())
    assert "not attempted yet" in said
    assert exercise.spec in said


def test_the_solution_passes(exercise):
    verdict = examine(exercise.name, exercise.solution)
    assert verdict.state == RIGHT, verdict.text
    assert exercise.worth_knowing in " ".join(verdict.text.split())


def test_a_typical_mistake_hears_its_own_hint(mistake):
    exercise, (answer, hint) = mistake
    verdict = examine(exercise.name, answer)
    assert verdict.state in (WRONG, RAISED)
    assert verdict.hint == hint
    assert hint in " ".join(verdict.text.split())


def test_exercises_are_worth_doing(exercise):
    assert len(exercise.mistakes) >= 3
    assert len({hint for _, hint in exercise.mistakes}) == len(exercise.mistakes)
    assert len(exercise.cases()) >= 2
    assert exercise.spec.endswith(".")


@pytest.mark.parametrize("answer", [lambda *_: 0, lambda *_: [], lambda *_: torch.zeros(0), lambda *args: args[0]])
def test_no_check_passes_vacuously(exercise, answer):
    assert examine(exercise.name, answer).state in (WRONG, RAISED)


def test_arguments_and_random_state_are_left_alone(exercise):
    before = torch.get_rng_state()
    examine(exercise.name, lambda *_: torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())


def test_an_exception_is_a_sentence_with_the_readers_line():
    def map_sizes(height, width):
        return torch.zeros(2, 3) @ torch.zeros(2, height)  # my own line

    verdict = examine("01.map_sizes", map_sizes)
    assert verdict.state == RAISED
    assert "raised RuntimeError" in verdict.text
    assert "# my own line" in verdict.text
    assert "Traceback" not in verdict.text


def test_a_function_that_takes_other_arguments():
    verdict = examine("01.map_sizes", lambda image: 0)
    assert verdict.state == RAISED
    assert "takes 1 positional argument but 2 were given" in verdict.text


def test_a_call_in_place_of_the_function():
    assert "without calling it" in examine("01.map_sizes", [(1, 1)]).text


@pytest.mark.parametrize("name", ["01.mapsizes", "1.map_sizes", "99.map_sizes"])
def test_a_name_that_does_not_exist(name):
    with pytest.raises(ValueError, match=r"did you mean '01\.map_sizes'"):
        examine(name, not_implemented)
    with pytest.raises(ValueError, match="no exercise None"):
        examine(None, not_implemented)


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), "(3, 2)"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), "should be floating-point, yours are whole"),
        (torch.zeros(2), [0.0, 0.0], "Return a tensor."),
        (torch.arange(4.0), torch.arange(4.0) + 0.5, "off by +0.5"),
        (torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[2.0, 1.0], [5.0, 3.0]]), "the other way round"),
        (torch.tensor([1.0, 2.0, 4.0]), torch.tensor([4.0, 1.0, 2.0]), "in another order"),
        (torch.ones(2), torch.tensor([1.0, float("nan")]), "not finite"),
        ([(1, 2)], [(2, 1)], "[(2, 1)]"),
        ([torch.zeros(1), torch.zeros(2)], [torch.zeros(1), torch.ones(2)], "in item 1, at [0], 0"),
        (3, 3.5, "3.5"),
        ("a", "b", "'b'"),
        ([1], None, "None"),
    ],
)
def test_differences_in_words(expected, got, words):
    assert words in " ".join(difference(expected, got))
    assert difference(expected, expected) is None
