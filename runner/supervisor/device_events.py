"""What devices log, in words: they name an event and its facts, and a person reads a sentence.

The name stays beside it in the log (``kind``), for programs.
"""

from __future__ import annotations

from runner.typed import TYPE_CHECKING, Mapping

if TYPE_CHECKING:
    from runner.definition.model import Json

SENTENCES = {
    "disk-error": "disk `{device}`: {request} failed: {reason}",
    "network-lost": "network `{device}`: {reason}",
    "offload-refused": "`{device}`: the host does not serve its queues: {reason}",
    "vhost-user": "{reason}",
    "virtio-needs-reset": "`{device}`: its driver in the guest has to reset it: {reason}",
    "vsock": "no connection into the guest is taken for a while: {reason}",
    "watchdog-bites": "the watchdog has not been fed; action: {action}",
}


def told(data: Mapping[str, Json]) -> tuple[str, str, dict[str, Json]]:
    """Level, words and fields of a log line that came from the VM process.

    An event without a sentence, or with other facts than its sentence has, is said as it is.
    """
    facts = dict(data)
    level, event = str(facts.pop("level", "info")), str(facts.pop("event", ""))
    try:
        words = SENTENCES[event].format_map(facts)
    except KeyError:
        return level, event, facts
    return level, words, {"kind": event, **facts}
