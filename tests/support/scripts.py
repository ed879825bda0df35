"""A module in this process that can be executed again as a reload does it."""

import pytest

from spark_fast.worker.reload.libraries import make_repetitions
from spark_fast.worker.reload.patching import Patch
from spark_fast.worker.reload.repetition import Repetition
from tests.unit.test_patching import Edited

REPETITIONS = make_repetitions()


class Script(Edited):
    """A module that can be executed again as a reload does it: under a patch, and with libraries that accept this."""

    def reload(self, source: str) -> list[str]:
        """Reload the module; return the warnings."""
        patch = Patch()
        repetition = Repetition(REPETITIONS, [self.module.__name__], [self.source.encode()])
        repetition.begin()
        try:
            self.run(patch, source)
        except BaseException:
            repetition.undo()
            patch.undo()
            raise
        warnings = patch.warnings + repetition.warnings
        repetition.keep()
        patch.commit()
        patch.recompile()
        self.source = source
        return warnings

    def again(self, *words: str) -> list[str]:
        """Reload the module with words replaced by others; return the warnings."""
        source = self.source + "\n"
        for old, new in zip(words[::2], words[1::2], strict=True):
            assert old in source
            source = source.replace(old, new)
        return self.reload(source)

    def fail(self, *words: str) -> None:
        """Reload the module with words replaced by others, and with code at the end that raises."""
        with pytest.raises(ZeroDivisionError):
            self.again(self.source, self.source + "\n1/0\n", *words)
