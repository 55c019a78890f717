"""What vlmserve counts and times, beside vLLM's own ``vllm:*`` metrics.

On the lowest floor, so that whoever knows a number records it here; ``/metrics`` shows all of them
where a server runs, and elsewhere nobody looks. Names and units follow Prometheus' conventions.
Labels are of small, fixed sets: never a URL, a model's answer or anything else of a caller's.
"""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_BYTES = (1e4, 1e5, 5e5, 1e6, 5e6, 1e7, 5e7, 1e8, 5e8)

REQUESTS = Counter(
    "vlmserve_requests",
    "Requests that were answered, by route and HTTP status (499: the client left first)",
    ["route", "status"],
)
REQUEST_SECONDS = Histogram(
    "vlmserve_request_seconds",
    "Seconds from a request's first byte to its answer's last, refusals included",
    ["route"],
    buckets=_SECONDS,
)
REFUSALS = Counter(
    "vlmserve_refusals",
    "Requests that were refused before the model saw them, by the error's code",
    ["reason"],
)
QUEUE_SECONDS = Histogram(
    "vlmserve_queue_seconds",
    "Seconds that an admitted request waited for its turn",
    buckets=_SECONDS,
)
QUEUED = Gauge("vlmserve_queued_requests", "Requests that wait for their turn")
RUNNING = Gauge("vlmserve_running_requests", "Requests that are being answered")
CONNECTIONS = Gauge("vlmserve_connections", "Open connections")
DISCONNECTS = Counter("vlmserve_disconnects", "Requests whose client left before the answer")
TIMEOUTS = Counter("vlmserve_timeouts", "Requests that ran out of time, by where", ["phase"])

FETCH_SECONDS = Histogram(
    "vlmserve_media_fetch_seconds",
    "Seconds to fetch an image or a video by URL, redirects and waiting included",
    ["kind"],
    buckets=_SECONDS,
)
DECODE_SECONDS = Histogram(
    "vlmserve_media_decode_seconds",
    "Seconds to check and decode an image or a video",
    ["kind"],
    buckets=_SECONDS,
)
DECODED_CACHE_HITS = Counter(
    "vlmserve_decoded_cache_hits", "Images that had been decoded before and were not decoded again"
)
MEDIA_BYTES = Histogram(
    "vlmserve_media_bytes", "Size of an image's or a video's file", ["kind"], buckets=_BYTES
)
MEDIA_REFUSALS = Counter(
    "vlmserve_media_refusals", "Images and videos that were refused", ["kind", "reason"]
)
DECODER_RESTARTS = Counter("vlmserve_decoder_restarts", "Decoder processes that had to be replaced")
BUDGET_REFUSALS = Counter(
    "vlmserve_budget_refusals", "Requests that do not fit into the model's context"
)
PLACEHOLDER_MISMATCHES = Counter(
    "vlmserve_placeholder_mismatches",
    "Media for which the processor made another number of tokens than the family's formula",
    ["kind"],
)
ADAPTER_CHANGES = Counter(
    "vlmserve_adapter_changes", "Adapter roll-outs by outcome", ["action", "outcome"]
)

for _kind in ("image", "video"):
    # From the start, so that a rate is known when the first one comes.
    FETCH_SECONDS.labels(_kind)
    DECODE_SECONDS.labels(_kind)
    MEDIA_BYTES.labels(_kind)
    PLACEHOLDER_MISMATCHES.labels(_kind)
