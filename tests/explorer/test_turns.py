"""Whose turn it is."""

import threading
import time

from show_attend_tell.explorer.turns import Turns


def test_who_waits_comes_before_work_in_the_background_and_one_goes_at_a_time():
    turns, order, inside = Turns(), [], []

    def take(name, turn):
        with turn():
            inside.append(name)
            assert len(inside) == 1
            order.append(name)
            time.sleep(0.01)
            inside.remove(name)

    threads = []
    with turns.person():
        for name in ("work 1", "work 2", "work 3", "person 1", "person 2"):
            turn = turns.person if name.startswith("person") else turns.background
            threads.append(threading.Thread(target=take, args=(name, turn)))
            threads[-1].start()
            time.sleep(0.02)  # until it waits
        assert order == []
    for thread in threads:
        thread.join(timeout=10)
    assert sorted(order[:2]) == ["person 1", "person 2"]
    assert len(order) == 5


def test_an_error_ends_a_turn():
    turns = Turns()
    for turn in (turns.person, turns.background):
        try:
            with turn():
                raise KeyError
        except KeyError:
            pass
    with turns.person():
        pass
