"""One run from the file to the verdict: load, survey, plan, fetch, open, start, supervise.

What is learnt on the way is kept in a :class:`runner.supervisor.record.Run`, so that the
report of a run that failed half way says how far it came.
"""

from __future__ import annotations

from runner.light import ExitStack
from runner.supervisor.record import Run
from runner.typed import TYPE_CHECKING, Iterable

if TYPE_CHECKING:
    from runner.engine.kvm.early import Waiting
    from runner.engine.protocol import Engine
    from runner.graph.model import BootFiles, Graph
    from runner.host.passthrough.recovery import Restored
    from runner.host.signals import Signals
    from runner.hostfacts import HostFacts
    from runner.supervisor.ending import Ending
    from runner.supervisor.endpoint import Tell
    from runner.supervisor.openers import Backends
    from runner.supervisor.supervise import Supervisor
    from runner.verdict.decide import Verdict

ENGINES = {
    "kvm": ("runner.engine.kvm.engine", "KvmEngine"),
    "qemu": ("runner.engine.qemu", "QemuEngine"),
}
"""Module and class of each engine; imported only when it is the one that runs."""


def execute(run: Run, signals: Signals, tell: Tell) -> Verdict:
    """The whole run.  Raises VmrunError before the guest starts, Interrupted for a signal then.

    However it ends, everything done to the host is undone, in reverse order.
    """
    with ExitStack() as keep:
        try:
            verdict = _execute(run, signals, tell, keep)
        finally:
            signals.defer()  # nothing interrupts the way back
    run.mark("restored")
    return verdict


def _execute(run: Run, signals: Signals, tell: Tell, keep: ExitStack) -> Verdict:
    _recover(run, tell)
    waiting = _anticipate(run, keep)
    graph, engine = _resolve(run, waiting)
    if run.definition is not None and run.definition.warnings and run.on_warnings is not None:
        run.on_warnings(run.definition.warnings)
    _announce(graph, tell)
    if graph.cpus.affinity:
        from runner.host.affinity import refuse_absent

        refuse_absent(graph.cpus.affinity)
    _register(run, keep, tell)
    graph = _named(run, graph)
    if run.request.detached:
        from runner.backends.log_file import state_folder

        run.log_folder = state_folder(run.name)
    run.files = _fetch(graph, run.request.refresh, tell)
    run.mark("fetched")
    signals.defer()
    engine.prepare(graph, run.files)
    run.ending = ending = _supervise(run, graph, engine, signals, tell, keep)
    return _judge(run, graph, ending)


def _recover(run: Run, tell: Tell) -> None:
    """What a killed run has left on the host is put back first; one look when there is nothing."""
    from runner.host.passthrough.state import pending, state_folder

    if not pending(state_folder()):
        return
    from runner.host.passthrough.recovery import recover

    run.recovered = recover()
    _tell_restored(run.recovered, tell)


def _tell_restored(done: Iterable[Restored], tell: Tell) -> None:
    for one in done:
        tell(one.level, one.words())


def _resolve(run: Run, waiting: Waiting | None) -> tuple[Graph, Engine]:
    """The file becomes a definition, and with this host's facts a graph that an engine takes.

    What the same file on the same host became before is remembered.
    """
    from runner.host.survey import survey
    from runner.supervisor.remembered import Memory

    memory = Memory(run.request)
    passes = memory.passes_devices()
    if passes is None:
        from runner.definition.load import load

        run.definition = load(run.request.path, run.request.settings, memory.data)
        run.mark("checked")
        passes = any(entry.kind == "vfio" for entry in run.definition.devices)
    run.facts = facts = survey(pci=passes)
    run.mark("surveyed")
    known = memory.recall(facts)
    if known is not None:
        run.definition, graph = known
        engine = _engine(graph, waiting)
        run.mark("recalled")
    else:
        graph = _plan(run, facts, memory.data)
        run.mark("planned")
        assert run.definition is not None
        if not graph.engine.name:
            from runner.supervisor.no_engine import no_engine

            raise no_engine(run.request, run.definition, graph, facts)
        engine = _engine(graph, waiting)
        memory.keep(run.definition, graph, facts, passes=passes)
    if graph.refusals:
        _refuse_lending(run, graph)
    if run.request.timeout is not None:
        graph = graph._replace(timeout=run.request.timeout or None)
    run.graph = graph
    return graph, engine


def _plan(run: Run, facts: HostFacts, data: bytes | None) -> Graph:
    from runner.definition.load import load
    from runner.graph.plan import plan

    if run.definition is None:
        run.definition = load(run.request.path, run.request.settings, data)
    run.graph = plan(run.definition, facts, engine=run.request.engine)
    return run.graph


def _anticipate(run: Run, keep: ExitStack) -> Waiting | None:
    """Where the kvm engine is likely, its process starts now and imports while we read and plan."""
    from runner.engine.kvm import early

    if "kvm" not in (run.request.engine or ("kvm",)) or not early.likely():
        return None
    waiting = early.fork()
    keep.callback(waiting.close)
    return waiting


def _engine(graph: Graph, waiting: Waiting | None) -> Engine:
    """The engine that the plan chose."""
    from importlib import import_module

    module, name = ENGINES[graph.engine.name]
    maker = getattr(import_module(module), name)
    engine: Engine = maker(waiting) if graph.engine.name == "kvm" else maker()
    return engine


def _refuse_lending(run: Run, graph: Graph) -> None:
    """What the plan knows to stand against lending is told before anything is fetched; what is true when
    the drivers are changed is asked again then.
    """
    from runner.graph.passthrough import refuse

    assert run.definition is not None
    assert run.facts is not None
    refuse(run.definition.devices, graph.memory.size, run.facts)


def _announce(graph: Graph, tell: Tell) -> None:
    """No silent substitution: which engine runs, and why not an earlier one of the list."""
    why = dict(graph.engine.reasons)
    words = f"{graph.name}: engine {graph.engine.name}"
    if graph.engine.name == "qemu":
        words += f" ({graph.engine.accelerator.upper()})"
    passed = [f"{name}: {why[name]}" for name, _ in graph.engine.reasons[: _place(graph)]]
    tell("info", f"{words}, {why.get(graph.engine.name, '')}" + "".join(f"; not {one}" for one in passed))
    for note in graph.notes:
        tell("warning", note)


def _place(graph: Graph) -> int:
    names = [name for name, _ in graph.engine.reasons]
    return names.index(graph.engine.name) if graph.engine.name in names else 0


def _register(run: Run, keep: ExitStack, tell: Tell) -> None:
    """A name for ``vmrun ps``.  A host without a writable runtime directory can still run machines."""
    from runner.errors import HostIoError, HostPermissionError
    from runner.supervisor.registry import register

    assert run.definition is not None
    run.name = run.request.name or run.definition.name
    try:
        registration = register(run.name, exact=run.request.name is not None)
    except (HostIoError, HostPermissionError) as error:
        tell("warning", f"{error}: vmrun ps, stop and attach will not see this run")
        return
    run.name = registration.name
    run.registration = registration
    keep.callback(registration.release)
    keep.callback(run.hang_up)  # after the host has been restored: `vmrun stop` waits for it


def _named(run: Run, graph: Graph) -> Graph:
    """Under a name of its own a run has addresses of its own."""
    from runner.supervisor.registry import safe_name

    if run.name in (graph.name, safe_name(graph.name)):
        return graph
    from runner.graph.renamed import renamed

    run.graph = renamed(graph, run.name)
    return run.graph


def _fetch(graph: Graph, refresh: bool, tell: Tell) -> BootFiles:
    from runner.artifacts.prepare import fetch

    files = fetch(graph.boot, refresh=refresh, tell=lambda line: tell("info", line))
    for note in files.notes:
        tell("info", note)
    return files


def _supervise(
    run: Run, graph: Graph, engine: Engine, signals: Signals, tell: Tell, keep: ExitStack
) -> Ending:
    """Prepare the host, start the VM process, watch over it.  Signals are noted, and met between steps."""
    from runner.engine.protocol import Resources
    from runner.supervisor.openers import Backends
    from runner.supervisor.supervise import Supervisor

    supervisor = Supervisor(signals, tell, graph.timeout)
    supervisor.expect = run.definition.expect if run.definition is not None else None
    if run.shows_console and run.log_folder is None:
        from runner.backends.stdio import StandardStreams

        supervisor.streams = StandardStreams(supervisor.command, supervisor.output_gone, supervisor.hangup)
        supervisor.window_of = _window_of(graph)
    backends = Backends(keep, tell, supervisor.streams, run.log_folder)
    _lend(run, graph, backends, keep, tell)
    signals.check()
    backends.open(graph)
    run.taken += backends.taken
    signals.check()
    run.mark("prepared")
    assert run.files is not None
    with signals.interrupting():  # loading a kernel may take its time
        guest = engine.start(graph, run.files, Resources(dict(backends.fds), backends.values))
        keep.callback(guest.close)
    backends.hand_over()
    run.mark("started")
    if any(node.kind == "virtio_balloon" for node in graph.nodes):
        from runner.supervisor.balloon import Balloon

        supervisor.balloon = Balloon(graph.memory.size, supervisor.ask)
    supervisor.watch(guest, backends.consoles, backends.helpers)
    backends.attend(supervisor.loop)
    _open_control(run, supervisor, tell)
    if run.on_started is not None:
        run.on_started()
    return supervisor.run()


def _window_of(graph: Graph) -> str:
    """The virtio-console on our terminal, if the engine can tell its guest how large that is."""
    if graph.engine.name != "kvm":
        return ""
    consoles = (node for node in graph.nodes if node.kind == "virtio_console")
    return next((node.name for node in consoles if node.claim.backends[0].options.get("mode") == "tty"), "")


def _lend(run: Run, graph: Graph, backends: Backends, keep: ExitStack, tell: Tell) -> None:
    """Functions for passthrough leave their host drivers, and come back at the end."""
    assert run.definition is not None
    entries = tuple(entry for entry in run.definition.devices if entry.kind == "vfio")
    if not entries:
        return
    from runner.graph.x86 import backing
    from runner.host.passthrough.transaction import prepare

    assert run.facts is not None
    # All that backs the memory is pinned, also below the hole that the guest sees in it.
    prepared = prepare(entries, run.facts, backing(graph.memory.size), vm=run.name)

    keep.callback(lambda: _tell_restored(prepared.restore(), tell))
    _tell_restored((one for one in prepared.recovered if one not in run.recovered), tell)
    backends.fds["passthrough-lock"] = prepared.lock_fd
    for one in prepared.lent:
        words = f"devices.{one.name}: {one.address} (IOMMU group {one.group})"
        run.taken.append(words)
        tell("info", f"{words} is lent to the guest")


def _open_control(run: Run, supervisor: Supervisor, tell: Tell) -> None:
    """From here ``vmrun ps``, ``stop`` and ``attach`` can reach it."""
    registration = run.registration
    if registration is None:
        return
    from runner.supervisor.control import ControlServer

    assert run.graph is not None
    try:
        server = ControlServer(registration.control, supervisor)
        registration.describe(
            {
                "name": run.name,
                "definition": run.graph.source.resolved,
                "engine": run.graph.engine.name,
                "accelerator": run.graph.engine.accelerator,
            }
        )
    except OSError as error:
        tell("warning", f"no control socket: {error.strerror}; vmrun stop and attach will not reach this run")
        return
    run.control = server


def _judge(run: Run, graph: Graph, ending: Ending) -> Verdict:
    """What the end means."""
    from runner.verdict.decide import Setting, decide

    setting = Setting(
        cmdline=graph.boot.cmdline,
        timeout=graph.timeout,
        memory=graph.memory.size,
        has_initramfs=graph.boot.initramfs is not None,
        serial=any(node.kind == "uart16550" for node in graph.nodes),
        expect=run.definition.expect if run.definition is not None else None,
    )
    run.verdict = decide(ending, setting)
    return run.verdict
