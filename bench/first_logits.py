"""A fresh process on its way to the first logits; `startup.py` starts it and reads its clock.

    python bench/first_logits.py MODULE BUILDER '{"model": "resnet34", ...}'

Prints a line of JSON: the time of day after each stage.
"""

import time

STARTED = time.time()

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402


def main() -> None:
    module, builder, case = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    times = {"interpreter": STARTED}
    importlib.import_module(module)
    times["import"] = time.time()
    import peers

    work = getattr(peers, builder)(**json.loads(case))
    times["network"] = time.time()
    work.run()
    times["first logits"] = time.time()
    for name in ("second", "third"):
        work.run()
        times[name] = time.time()
    replies.write(json.dumps(times) + "\n")
    replies.close()


if __name__ == "__main__":
    from worker import Skip

    try:
        main()
    except (Skip, ImportError) as reason:
        sys.exit(f"skipped: {reason}")
