"""Times whole processes from inside a node: `spawn.py <JSON >JSON`.

    {"commands": {NAME: {"argv": […], "env": {…}, "stdin": "…"}}, "sequence": [NAME, …], "repeat": N}   -> {NAME: [seconds, …]}
    {"commands": {…}, "crowds": [[NAME, …], …], "repeat": N}                                            -> [[seconds, …], …]

A sequence runs one after the other, `repeat` times; a crowd is started at once, and its time is that from the first start to
the last end. A command ends when it has exited and closed its output, which is what libvirt waits for. A command that fails
ends it all: its output is on stderr then.
"""

import json
import os
import select
import signal
import sys
import time

PAUSE = 0.03
"""Seconds before each command of a sequence: between two calls a hypervisor does other things, and so does who is called."""


def start(command):
    """Starts a command as libvirt does, its input in a pipe that is already full. Returns its process and its output's pipe."""
    stdin, feed = os.pipe()
    output, their_output = os.pipe()
    os.write(feed, command.get("stdin", "").encode())
    os.close(feed)
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, their_output, 1), (os.POSIX_SPAWN_DUP2, their_output, 2)]
    argv = command["argv"]
    # Python ignores SIGPIPE, and a child would inherit that.
    pid = os.posix_spawn(argv[0], argv, command["env"], file_actions=actions, setsigdef=[signal.SIGPIPE])
    os.close(stdin)
    os.close(their_output)
    return pid, output


def read_all(output):
    said = b""
    while more := os.read(output, 65536):
        said += more
    os.close(output)
    return said


def judge(name, status, said):
    if status:
        sys.exit(f"{name}: exit status {os.waitstatus_to_exitcode(status)}: {said.decode(errors='replace')}")


def timed(name, command):
    begin = time.perf_counter()
    pid, output = start(command)
    said = read_all(output)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - begin
    judge(name, status, said)
    return took


def crowd(commands):
    begin = time.perf_counter()
    running = {}
    poll = select.poll()
    for name, command in commands:
        pid, output = start(command)
        running[output] = (name, pid, [])
        poll.register(output, select.POLLIN)
    pids = []
    while running:
        for output, _ in poll.poll():
            name, pid, said = running[output]
            if more := os.read(output, 65536):
                said.append(more)
                continue
            poll.unregister(output)
            os.close(output)
            del running[output]
            pids.append((name, pid, b"".join(said)))
    results = [(name, os.waitpid(pid, 0)[1], said) for name, pid, said in pids]
    took = time.perf_counter() - begin
    for name, status, said in results:
        judge(name, status, said)
    return took


def main():
    order = json.load(sys.stdin)
    commands = order["commands"]
    if "crowds" in order:
        crowds = [[(name, commands[name]) for name in names] for names in order["crowds"]]
        series = [[] for _ in crowds]
        for _ in range(order["repeat"]):
            for times, members in zip(series, crowds, strict=True):
                times.append(crowd(members))
    else:
        series = {name: [] for name in order["sequence"]}
        for _ in range(order["repeat"]):
            for name in order["sequence"]:
                time.sleep(PAUSE)
                series[name].append(timed(name, commands[name]))
    json.dump(series, sys.stdout)


if __name__ == "__main__":
    main()
