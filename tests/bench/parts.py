"""Where the time of a call goes: `parts.py PRODUCT hook HOOK ARGUMENT… <XML` or `parts.py PRODUCT agent N <JSON`.

`hook` runs one hook in this process, as the interpreter would; `agent` serves calls as the agent does, with nobody asking. A
thread looks every half millisecond at what is being done, and books the time since the last look there. (Not an alarm: a signal
makes nftables give up.) On stdout is JSON: seconds by part, of the call; or of each call of each name.
"""

# As the hook itself: without `threading`, `json` and what they import, whose import would not be booked then.
import _thread
import posix
import sys
import time

PERIOD = 0.0005
PARTS = (
    ("/kernel/", "kernel: netlink, nft, sysctl"),
    ("/records/", "records"),
    ("/frontends/", "parse"),
    ("/declared/configuration.py", "configuration"),
    ("/model/declaration.py", "configuration"),
    ("/declared/", "compose"),
    ("/networks/", "compose"),
    ("/links/", "compose"),
    ("/values.py", "compose"),
    ("/agent/place.py", "agent"),
    ("/hook/client.py", "hand over"),
)

spent = {}
last, watching = 0.0, False


def part_of(frame):
    """What a frame is part of: an import, by the package imported; else the innermost file of ours."""
    importing = ""
    ours = ""
    while frame:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib") and not importing and frame.f_code.co_name == "_find_and_load":
            top = frame.f_locals.get("name", "").partition(".")[0]
            importing = f"import {top if top in ('vmnet_hooks', 'pyroute2', 'lxml') else 'of the standard library'}"
        elif name.endswith("/site.py") and not importing:
            importing = "import site"
        elif not ours and "/vmnet_hooks/" in name:
            ours = next((part for end, part in PARTS if end in name), "engine")
        frame = frame.f_back
    return importing or ours or "start"


def book(frame):
    """Books the time since the last look where the frame is."""
    global last
    now = time.perf_counter()
    part = part_of(frame)
    spent[part] = spent.get(part, 0.0) + now - last
    # The look itself is nobody's time.
    last = time.perf_counter()


def watch(thread):
    while True:
        time.sleep(PERIOD)
        if watching and (frame := sys._current_frames().get(thread)):
            book(frame)


def begin():
    global last, watching
    last, watching = time.perf_counter(), True


def end():
    global watching
    watching = False
    book(sys._getframe(1))


def tell_and_exit(status):
    end()
    if status == 0:
        posix.write(1, repr(spent).replace("'", '"').encode())
    leave(status)


leave = posix._exit


def hook(product, argv):
    """Runs hooks/run, which ends by posix._exit."""
    with open(f"{product}/hooks/run") as file:
        code = compile(file.read(), argv[0], "exec")
    sys.argv[:] = argv
    posix._exit = tell_and_exit
    begin()
    exec(code, {"__name__": "__main__"})


def server(product):
    """Serves one call, as `hosts.Host.hook` has it, at the agent's place. Not started: nobody but us asks, and nothing is done at
    leisure."""
    import io

    sys.path.insert(0, product)
    from vmnet_hooks.agent.main import Agent
    from vmnet_hooks.frontends import of
    from vmnet_hooks.frontends.front_end import Request
    from vmnet_hooks.hook.call import serve

    place = Agent().place

    def served(command):
        stdin = io.BytesIO(command.get("stdin", "").encode())
        request = Request(command["argv"], command["env"], stdin, 1, place.declared)
        status, reason = serve(of(command["argv"][0]), request, place)
        if status:
            sys.exit(reason)

    return served


def agent(product, repeat):
    """Books the parts of calls."""
    import json

    order, served = json.load(sys.stdin), server(product)
    taken = {name: [] for name in order}
    for round in range(repeat + 3):
        for name, command in order.items():
            spent.clear()
            begin()
            served(command)
            end()
            if round >= 3:
                taken[name].append(dict(spent))
    print(json.dumps(taken))


if __name__ == "__main__":
    sys.setswitchinterval(PERIOD)
    _thread.start_new_thread(watch, (_thread.get_ident(),))
    if sys.argv[2] == "hook":
        hook(sys.argv[1], sys.argv[3:])
    else:
        agent(sys.argv[1], int(sys.argv[3]))
