"""Names by content: of any value, and of all that a suite asks."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmserve.evals.eval_task import EvalTask


def content_digest(value: Any) -> str:
    """Give the SHA-256 of a JSON value in a canonical spelling, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_suite(tasks: "Sequence[EvalTask]") -> str:
    """Name all samples of a suite's tasks, and how they are asked and scored."""
    return content_digest(
        [
            [task.recipe, [(sample.sample_id, sample.request_digest) for sample in task.samples]]
            for task in tasks
        ]
    )
