"""Times requests to the agent from a client that stays: `calls.py PRODUCT <JSON >JSON`. The JSON is that of spawn.py's sequences,
and `pause`: seconds before each.

What is timed is connecting, asking and the answer: the agent's own time and next to nothing else.
"""

import json
import sys
import time

sys.path.insert(0, sys.argv[1])

from vmnet_hooks.frontends import of  # noqa: E402
from vmnet_hooks.hook.client import asked, connected  # noqa: E402


def call(name, command):
    argv = command["argv"]
    words = [
        b"\0".join(word.encode() for word in argv),
        b"\0".join(f"{key}={value}".encode() for key, value in command["env"].items()),
        command.get("stdin", "").encode(),
    ]
    # No answer: a hook would do it by itself then. What is measured must be served, see Host.all_served.
    for _ in range(2):
        begin = time.perf_counter()
        agent = connected()
        if agent is None:
            sys.exit("the agent is not there")
        answer = asked(agent, of(argv[0]), *words)
        took = time.perf_counter() - begin
        agent.close()
        if answer:
            break
    if not answer.startswith(b"0 "):
        sys.exit(f"{name}: {answer.decode(errors='replace')}")
    return took


def main():
    order = json.load(sys.stdin)
    series = {name: [] for name in order["sequence"]}
    for _ in range(order["repeat"]):
        for name in order["sequence"]:
            time.sleep(order["pause"])
            series[name].append(call(name, order["commands"][name]))
    json.dump(series, sys.stdout)


if __name__ == "__main__":
    main()
