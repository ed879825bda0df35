from contextlib import contextmanager


class Patch:
    code_changed = False

    @contextmanager
    def active(self):
        yield

    def begin_module(self, m, o, n):
        pass

    def end_module(self, m):
        pass

    def transform(self, t, m):
        return t

    def undo(self):
        pass

    def commit(self):
        pass


def preflight(o, n, m):
    pass
