import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from noisy_student.core.randomness import generator

DRAWS = st.tuples(st.integers(0, 2**64), st.text(max_size=20), st.integers(0, 2**40))


@given(draw=DRAWS)
def test_a_draw_is_a_function_of_seed_purpose_and_step(draw):
    first = generator(*draw).random(4)
    generator(draw[0], "another purpose", 0).random(100)
    assert np.array_equal(first, generator(*draw).random(4))


@given(one=DRAWS, other=DRAWS)
def test_draws_that_differ_in_one_of_the_three_are_independent(one, other):
    for i in range(3):
        changed = (*one[:i], other[i], *one[i + 1 :])
        assert (changed == one) == np.array_equal(generator(*one).random(4), generator(*changed).random(4))


def test_the_generator_gives_the_same_numbers_on_every_machine():
    assert generator(0, "order of pool", 1).integers(1000, size=3).tolist() == [121, 840, 452]
