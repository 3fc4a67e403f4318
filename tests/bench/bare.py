"""What the kernel itself takes for calls: `bare.py PRODUCT REPEAT PAUSE <JSON`.

The calls are served once, as the agent does. What they tell the kernel is written down, and told again, byte by byte, by a loop
that asks, records and decides nothing: no program takes less. On stdout is JSON: seconds by call, each time.
"""

import json
import sys
import time

from parts import server


def listen(log):
    """Writes down what is told from here on."""
    from vmnet_hooks.kernel import netlink
    from vmnet_hooks.kernel.objects import sysctl

    def heard(real):
        def told(*words):
            # What the kernel refuses, as the question whether it has ifb, is no work of its.
            answer = real(*words)
            log.append((real, words))
            return answer

        return told

    for place, name in ((netlink.Socket, "change"), (netlink.Socket, "batch"), (sysctl, "write_value")):
        setattr(place, name, heard(getattr(place, name)))


def main(product, repeat, pause):
    order, served = json.load(sys.stdin), server(product)
    log, told = [], {}
    listen(log)
    for name, command in order.items():
        served(command)
        told[name] = list(log)
        log.clear()
    taken = {name: [] for name in told}
    for _ in range(repeat):
        for name, steps in told.items():
            time.sleep(pause)
            begin = time.perf_counter()
            for real, words in steps:
                real(*words)
            taken[name].append(time.perf_counter() - begin)
    json.dump(taken, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
