"""What Triton counts for each model since it started, as its statistics tell."""

from __future__ import annotations

from dataclasses import dataclass, fields

import tritonclient.grpc as triton


@dataclass(frozen=True)
class ModelCounts:
    """Counts of one model; times are sums over `requests`, in nanoseconds.

    `rows` are the batch rows of the requests (one each for a model without batching), `executions` the runs of the
    model that they took.
    """

    model: str
    requests: int = 0
    rows: int = 0
    executions: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    def since(self, earlier: ModelCounts) -> ModelCounts:
        """The difference to an earlier reading."""
        counts = (field.name for field in fields(self) if field.name != "model")
        return ModelCounts(
            self.model, **{name: getattr(self, name) - getattr(earlier, name) for name in counts}
        )


def read_counts(url: str) -> dict[str, ModelCounts]:
    """A reading of every model of the server at that gRPC address."""
    with triton.InferenceServerClient(url) as client:
        answer = client.get_inference_statistics()
    return {
        model.name: ModelCounts(
            model.name,
            requests=model.inference_stats.success.count,
            rows=model.inference_count,
            executions=model.execution_count,
            queue_ns=model.inference_stats.queue.ns,
            input_ns=model.inference_stats.compute_input.ns,
            infer_ns=model.inference_stats.compute_infer.ns,
            output_ns=model.inference_stats.compute_output.ns,
        )
        for model in answer.model_stats
    }
