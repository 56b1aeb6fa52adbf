import subprocess
import sys

import torch
from torch._dynamo.testing import CompileCounter

from ascl_lightning.runtime.compilation import never_compiled

seen = []


@never_compiled
def lengths(values: torch.Tensor) -> torch.Tensor:
    seen.append(torch.compiler.is_compiling())
    return values[: int(values.sum())] * 2


def test_it_is_run_as_it_is_within_compiled_code():
    counter = CompileCounter()
    compiled = torch.compile(lambda values: lengths(values + 1) + 1, backend=counter)
    assert compiled(torch.tensor([0.0, 1.0, 0.0])).tolist() == [3.0, 5.0, 3.0]
    assert seen == [False]
    assert counter.frame_count > 0, "what is around it is compiled"


def test_scoring_is_imported_without_the_compiler():
    code = "import sys, ascl_lightning.models.similarity.fused; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
