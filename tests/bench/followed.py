"""Follows one call through the program: `followed.py [CHECKOUT]…` prints, for each checkout (by default this one), what libvirt's
`start` of a routed guest takes without the agent. Needs root (network namespaces).

    calls    Python calls of the package's functions, module bodies included
    files    files of the package that are called
    moves    calls in another file than the call before
    modules  modules of the package that are loaded at the end
    depth    files of the package on the stack when a netlink message is sent, at most; the stack follows

Another guest is up already: the network's own objects are not part of the call.
"""

# As the hook itself: without `json` and what it imports.
import posix
import sys
from pathlib import Path


class Counter:
    """Counts what a process calls in one folder; a function for sys.setprofile."""

    def __init__(self, package):
        self.package = package
        self.calls = self.moves = 0
        self.files = set()
        self.last = ""
        self.stack = ()

    def __call__(self, frame, event, what):
        name = frame.f_code.co_filename
        if not name.startswith(self.package):
            return
        if event == "call":
            self.calls += 1
            self.moves += name != self.last
            self.files.add(name)
            self.last = name
        elif event == "c_call" and what.__name__.startswith("send") and name.startswith(f"{self.package}kernel/"):
            stack = self.below(frame)
            if len(stack) > len(self.stack):
                self.stack = stack

    def below(self, frame):
        """The files of the package on the stack, innermost first."""
        found = {}
        while frame:
            name = frame.f_code.co_filename
            if name.startswith(self.package):
                found[name.removeprefix(self.package)] = None
            frame = frame.f_back
        return tuple(found)

    def result(self):
        modules = sum(name.partition(".")[0] == "vmnet_hooks" for name in sys.modules)
        return {"calls": self.calls, "files": len(self.files), "moves": self.moves, "modules": modules, "stack": self.stack}


def follow(product, argv):
    """Runs hooks/run in this process, which ends by posix._exit."""
    counter = Counter(f"{product}/vmnet_hooks/")
    leave = posix._exit

    def tell_and_exit(status):
        sys.setprofile(None)
        if status == 0:
            posix.write(1, repr(counter.result()).encode())
        leave(status)

    with open(f"{product}/hooks/run") as file:
        code = compile(file.read(), argv[0], "exec")
    sys.argv[:] = argv
    posix._exit = tell_and_exit
    sys.setprofile(counter)
    exec(code, {"__name__": "__main__"})


def measured(source):
    """What the counter finds for a checkout."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from ast import literal_eval

    from bench.hosts import DUAL, PYTHON, Host, Product, routed

    with Product(source) as product, Host(product, DUAL) as host:
        host.taps(3)
        for number in (1, 2):
            host.hold(number)
            call = host.hook(f"guest{number}", "start", routed(number))
            done = host.node.run([PYTHON, "-IS", __file__, "--call", product.path, *call["argv"]], input=call["stdin"])
    return literal_eval(done.stdout)


def main():
    sources = sys.argv[1:] or [Path(__file__).resolve().parents[2]]
    for source in sources:
        found = measured(Path(source).resolve())
        stack = found.pop("stack")
        print(source, *(f"{name} {number}" for name, number in found.items()), f"depth {len(stack)}", sep="  ")
        print(f"    {' < '.join(stack)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--call"]:
        follow(sys.argv[2], sys.argv[3:])
    else:
        main()
