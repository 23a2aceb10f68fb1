"""Workers that do next to nothing, for the tests of bench/harness.py."""

from __future__ import annotations

import os
import time

from worker import Skip, Work


def sleeper(seconds=0.001, **case):
    return Work(
        lambda: time.sleep(seconds),
        lambda: {"rms_error": 1e-7},
        {"images": case["batch"], "flop": 1e6},
        "asleep",
    )


def missing(**_):
    import no_such_library  # noqa: F401


def unable(**_):
    raise Skip("not on this machine")


def wrong(**_):
    raise ValueError("two words\nin two lines")


def dies(**_):
    os.abort()


def dies_later(**_):
    calls = []

    def run():
        calls.append(0)
        if len(calls) > 3:
            os._exit(3)

    return Work(run)


def hangs(**_):
    time.sleep(60)


def talks(**case):
    print("this must not reach the pipe")
    return Work(lambda: print("nor this"), amounts={"images": case["batch"]})


def spins(**_):
    import threading

    def burn():
        while True:
            pass

    threading.Thread(target=burn, daemon=True).start()
    return Work(lambda: time.sleep(0.001))


def environment(**_):
    threads = int(os.environ["OMP_NUM_THREADS"])
    return Work(lambda: None, lambda: {"threads": threads, "own": float(os.environ["OWN"])})


def peak(**_):
    return Work(lambda: time.sleep(0.001), amounts={"flop": 1e9})
