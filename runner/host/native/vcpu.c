/* The KVM_RUN loop.  It returns only for an exit that needs a decision; an access to the serial
 * port or to one that nothing claims, EINTR and EAGAIN are met here.  A string instruction (REP OUTS)
 * is given out one element at a time, so Python sees single accesses only. */

static int vmrun_ioctl(int fd, unsigned long request, void *argument)
{
    int result;
    do {
        result = ioctl(fd, request, argument);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

static int vmrun_ioctl_value(int fd, unsigned long request, unsigned long argument)
{
    return vmrun_ioctl(fd, request, (void *)argument);
}

static void vmrun_on_kick(int signal)
{
    (void)signal; /* it only has to interrupt KVM_RUN */
}

static int vmrun_install_kick_signal(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = vmrun_on_kick; /* no SA_RESTART: KVM_RUN must return */
    return sigaction(SIGRTMIN, &action, NULL) < 0 ? -errno : 0;
}

static int vmrun_vcpu_open(struct vmrun_vcpu *v, int fd, uint64_t run_size, uint8_t *claimed_ports)
{
    memset(v, 0, sizeof *v);
    v->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (v->run == MAP_FAILED)
        return -errno;
    v->fd = fd;
    v->run_size = run_size;
    v->claimed_ports = claimed_ports;
    return 0;
}

static void vmrun_vcpu_close(struct vmrun_vcpu *v)
{
    if (v->run)
        munmap(v->run, v->run_size);
    v->run = NULL;
}

static void vmrun_vcpu_kick(struct vmrun_vcpu *v)
{
    /* The flag before the signal: a signal that comes before KVM_RUN would be lost.  There is
     * one flag only: with a second one, a kick that comes while the last is taken could leave
     * KVM_RUN returning at once, and nobody who knows why. */
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (v->tid)
        syscall(SYS_tgkill, getpid(), v->tid, SIGRTMIN);
}

static struct kvm_coalesced_mmio_ring *vmrun_coalesced_ring(struct vmrun_vcpu *v, uint64_t page)
{
    return (struct kvm_coalesced_mmio_ring *)((uint8_t *)v->run + page * getpagesize());
}

static int vmrun_claimed(const struct vmrun_vcpu *v, uint32_t port, uint32_t size)
{
    for (uint32_t i = port; i < port + size && i < 65536; i++)
        if (v->claimed_ports[i >> 3] & (1u << (i & 7)))
            return 1;
    return 0;
}

static uint8_t *vmrun_element(struct vmrun_vcpu *v)
{
    return (uint8_t *)v->run + v->run->io.data_offset + (uint64_t)v->done * v->size;
}

static int vmrun_present(struct vmrun_vcpu *v)
{
    if (v->reason == KVM_EXIT_MMIO) {
        v->value = 0;
        if (v->write)
            memcpy(&v->value, v->run->mmio.data, v->size > 8 ? 8 : v->size);
    } else {
        v->value = 0;
        if (v->write)
            memcpy(&v->value, vmrun_element(v), v->size);
    }
    v->waiting = 1;
    return v->reason == KVM_EXIT_MMIO ? VMRUN_MMIO : VMRUN_PIO;
}

/* Python has decided: hand a read's value over; 1 if another element waits. */
static int vmrun_answer(struct vmrun_vcpu *v)
{
    v->waiting = 0;
    if (v->reason == KVM_EXIT_MMIO) {
        if (!v->write)
            memcpy(v->run->mmio.data, &v->value, v->size > 8 ? 8 : v->size);
        return 0;
    }
    if (!v->write)
        memcpy(vmrun_element(v), &v->value, v->size);
    return ++v->done < v->count;
}

static void vmrun_serve_uart(struct vmrun_vcpu *v)
{
    uint8_t *bytes = vmrun_element(v);
    uint32_t offset = v->address - v->uart->port;
    for (uint32_t i = 0; i < v->count; i++)
        if (v->write)
            vmrun_uart_write(v->uart, offset, bytes[i]);
        else
            bytes[i] = vmrun_uart_read(v->uart, offset);
}

static int vmrun_start_pio(struct vmrun_vcpu *v)
{
    struct kvm_run *run = v->run;
    v->counters.pio++;
    v->address = run->io.port;
    v->size = run->io.size;
    v->count = run->io.count;
    v->write = run->io.direction == KVM_EXIT_IO_OUT;
    v->done = 0;
    if (v->uart && v->size == 1 && v->address - v->uart->port < 8) {
        vmrun_serve_uart(v);
        v->counters.quiet++;
        return 0;
    }
    if (vmrun_claimed(v, run->io.port, run->io.size))
        return 1;
    v->counters.quiet++;
    if (!v->write) /* an empty ISA bus floats high */
        memset(vmrun_element(v), 0xff, (size_t)v->size * v->count);
    return 0;
}

static int vmrun_facts(struct vmrun_vcpu *v)
{
    struct kvm_run *run = v->run;
    v->counters.other++;
    switch (v->reason) {
    case KVM_EXIT_HLT:
        return VMRUN_HLT;
    case KVM_EXIT_SHUTDOWN:
        return VMRUN_SHUTDOWN;
    case KVM_EXIT_FAIL_ENTRY:
        v->detail[0] = run->fail_entry.hardware_entry_failure_reason;
        return VMRUN_FAIL_ENTRY;
    case KVM_EXIT_INTERNAL_ERROR:
        v->detail[0] = run->internal.suberror;
        v->detail[1] = run->internal.ndata;
        v->detail[2] = run->internal.ndata > 0 ? run->internal.data[0] : 0;
        v->detail[3] = run->internal.ndata > 1 ? run->internal.data[1] : 0;
        return VMRUN_INTERNAL_ERROR;
    case KVM_EXIT_SYSTEM_EVENT:
        v->detail[0] = run->system_event.type;
        return VMRUN_SYSTEM_EVENT;
    default:
        return VMRUN_OTHER;
    }
}

static int vmrun_kicked(struct vmrun_vcpu *v)
{
    return __atomic_exchange_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

static int vmrun_vcpu_run(struct vmrun_vcpu *v)
{
    v->tid = (int)syscall(SYS_gettid);
    if (v->waiting && vmrun_answer(v))
        return vmrun_present(v);
    for (;;) {
        int result = ioctl(v->fd, KVM_RUN, 0);
        if (result < 0 && (errno == EINTR || errno == EAGAIN)) {
            if (vmrun_kicked(v))
                return VMRUN_KICKED;
            continue;
        }
        if (result < 0) {
            v->detail[0] = errno;
            return VMRUN_ERRNO;
        }
        v->counters.exits++;
        v->reason = v->run->exit_reason;
        if (v->reason == KVM_EXIT_IO) {
            if (vmrun_start_pio(v))
                return vmrun_present(v);
        } else if (v->reason == KVM_EXIT_MMIO) {
            v->counters.mmio++;
            v->address = v->run->mmio.phys_addr;
            v->size = v->run->mmio.len;
            v->write = v->run->mmio.is_write;
            return vmrun_present(v);
        } else if (v->reason != KVM_EXIT_INTR) {
            return vmrun_facts(v);
        } else if (vmrun_kicked(v)) {
            return VMRUN_KICKED;
        }
    }
}

/* What this CPU itself says in leaf ``leaf``: eax, ebx, ecx, edx; zeroes where it has no such leaf. */
static void vmrun_cpuid(uint32_t leaf, uint32_t *registers)
{
    memset(registers, 0, 4 * sizeof *registers);
    __get_cpuid(leaf, &registers[0], &registers[1], &registers[2], &registers[3]);
}

static int vmrun_set_routes(int vm, const struct vmrun_route *rows, uint32_t count)
{
    struct kvm_irq_routing *table =
        calloc(1, sizeof *table + count * sizeof(struct kvm_irq_routing_entry));
    if (!table)
        return -ENOMEM;
    table->nr = count;
    for (uint32_t i = 0; i < count; i++) {
        struct kvm_irq_routing_entry *entry = &table->entries[i];
        entry->gsi = rows[i].gsi;
        entry->type = rows[i].type;
        if (rows[i].type == KVM_IRQ_ROUTING_MSI) {
            entry->u.msi.address_lo = rows[i].a;
            entry->u.msi.address_hi = rows[i].b;
            entry->u.msi.data = rows[i].data;
        } else {
            entry->u.irqchip.irqchip = rows[i].a;
            entry->u.irqchip.pin = rows[i].b;
        }
    }
    int result = vmrun_ioctl(vm, KVM_SET_GSI_ROUTING, table);
    free(table);
    return result;
}
