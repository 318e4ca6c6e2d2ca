from search_spaces.even import nearest_to_even_steps


def test_steps_take_what_is_nearest_to_them() -> None:
    assert nearest_to_even_steps([0.0, 0.1, 4.9, 5.2, 10.0], 3) == [0, 2, 4]


def test_no_value_is_taken_twice() -> None:
    assert nearest_to_even_steps([0.0, 9.0, 9.5, 10.0], 3) == [0, 1, 3]


def test_few_values_are_all_taken_and_one_step_is_the_middle() -> None:
    assert nearest_to_even_steps([3.0, 1.0, 2.0], 5) == [0, 1, 2]
    assert nearest_to_even_steps([3.0, 1.0, 2.0], 1) == [2]
    assert nearest_to_even_steps([3.0, 1.0, 2.0], 0) == []
