"""xenstore, as far as a script of Xen's asks it."""


class FakeStore:
    """xenstore as a dictionary of full paths; a relative one is below /local/domain/0, as it is for dom0."""

    def __init__(self, trees: dict[str, dict[str, str]] | None = None, **names: str) -> None:
        self.values = {f"{path}/{key}": value for path, tree in (trees or {}).items() for key, value in tree.items()}
        self.values |= {f"/local/domain/{domid.removeprefix('d')}/name": name for domid, name in names.items()}

    @staticmethod
    def full(path: str) -> str:
        return path if path.startswith("/") else f"/local/domain/0/{path}"

    def read(self, path: str) -> str | None:
        return self.values.get(self.full(path))

    def list(self, path: str) -> list[str]:
        head = f"{self.full(path)}/"
        return sorted({key.removeprefix(head).partition("/")[0] for key in self.values if key.startswith(head)})

    def tree(self, path: str) -> dict[str, str]:
        return {key: value for key in self.list(path) if (value := self.read(f"{path}/{key}")) is not None}
