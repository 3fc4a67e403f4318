"""What the kernel itself takes for calls: `bare.py PRODUCT REPEAT PAUSE <JSON`.

The calls are served once, as the agent does. What they tell the kernel is written down, and told again, byte by byte, by a loop
that asks, records and decides nothing: no program takes less. On stdout is JSON: seconds by call, each time.
"""

import io
import json
import sys
import time


def listen(log):
    """Writes down what is told from here on."""
    from vmnet_hooks.kernel import sysctl, wire

    def heard(place, name, note):
        real = getattr(place, name)

        def told(*words):
            log.append(note(real, *words))
            return real(*words)

        setattr(place, name, told)

    # A socket of another kernel edge asks for the same: what matters is the protocol.
    again = {}

    def socket_like(one):
        kind = type(one)
        if kind not in again:
            again[kind] = kind() if kind is not wire.Socket else wire.Socket(one._socket.proto)
        return again[kind]

    heard(wire.Socket, "change", lambda real, on, *words: (real, socket_like(on), *words))
    heard(wire.Socket, "batch", lambda real, on, *words: (real, socket_like(on), *words))
    heard(sysctl, "write_value", lambda real, *words: (real, *words))


def main(product, repeat, pause):
    sys.path.insert(0, product)
    from vmnet_hooks.agent.main import Agent
    from vmnet_hooks.frontends import of
    from vmnet_hooks.handle import serve
    from vmnet_hooks.request import Request

    order = json.load(sys.stdin)
    place, log, told = Agent().place, [], {}
    listen(log)
    for name, command in order.items():
        stdin = io.BytesIO(command["stdin"].encode())
        status, reason = serve(of(command["argv"][0]), Request(command["argv"], command["env"], stdin, 1, place.declared), place)
        if status:
            sys.exit(reason)
        told[name] = list(log)
        log.clear()
    taken = {name: [] for name in told}
    for _ in range(repeat):
        for name, steps in told.items():
            time.sleep(pause)
            begin = time.perf_counter()
            for real, *words in steps:
                real(*words)
            taken[name].append(time.perf_counter() - begin)
    json.dump(taken, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
