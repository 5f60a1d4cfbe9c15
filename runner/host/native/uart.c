/* NS16550A serial port: its registers, from both sides of the wire.
 *
 * After the National Semiconductor PC16550D data sheet; the section numbers are its.  It is in C because a
 * driver touches it several times a line, on each CPU that has a part in it: a guest's CPUs would wait for each
 * other and for the interpreter (decision 0107).  One lock, held for no longer than a system call that does not
 * wait (but see outlet.c).
 *
 * The line itself takes no time: a byte that is written has left at once, so THRE and TEMT always read as set.
 * Both ways run through rings of fixed size (device-bugs 16): output's is outlet.c, which may hold up the virtual
 * CPU for a moment; input that does not fit stays with the sender, who hears by ``room`` when to offer it again.
 *
 * A byte costs an exit.  While a guest writes much, KVM puts the bytes by (KVM_CAP_COALESCED_PIO, api.rst 4.116),
 * and they are taken out of its ring before anything that could tell the difference.  A guest that writes and
 * then does nothing else at all would wait for ever, so the ring is looked at by a timer too; and since a timer
 * is not free, the port is coalesced only while bytes come. */

#define UART_FIFO 16u
#define UART_BEGIN 48u                /* writes without a pause from which on coalescing is worth it */
#define UART_PAUSE_NS 20000000u
#define UART_IDLE_LOOKS 10u           /* looks at an empty ring before the port is as before */

enum { IER_RX = 1, IER_THRE = 2, IER_LINE = 4, IER_MODEM = 8 };
enum { IIR_MODEM = 0, IIR_NONE = 1, IIR_THRE = 2, IIR_RX = 4, IIR_LINE = 6, IIR_TIMEOUT = 0xc, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_DATA = 1, LSR_OVERRUN = 2, LSR_EMPTY = 0x60 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80, MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD };

/* The interrupt with the highest priority (§8.6, table). */
static uint32_t uart_cause(const struct vmrun_uart *u)
{
    static const uint8_t trigger[4] = {1, 4, 8, 14}; /* §8.5, bits 6 and 7 */
    if (u->ier & IER_LINE && u->overrun)
        return IIR_LINE;
    if (u->ier & IER_RX && u->input_count)
        return u->input_count >= (u->fifo ? trigger[u->trigger] : 1) ? IIR_RX : IIR_TIMEOUT;
    if (u->ier & IER_THRE && u->thre_pending)
        return IIR_THRE;
    if (u->ier & IER_MODEM && u->msr_delta)
        return IIR_MODEM;
    return IIR_NONE;
}

/* A PC's interrupt line is gated by OUT2, which loopback forces off (§8.7). */
static void uart_update(struct vmrun_uart *u)
{
    uint32_t asserted = (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2 && uart_cause(u) != IIR_NONE;
    if (asserted == u->asserted)
        return;
    u->asserted = asserted;
    if (u->vm >= 0) {
        struct kvm_irq_level level = {.irq = u->irq, .level = asserted};
        vmrun_ioctl(u->vm, KVM_IRQ_LINE, &level);
    }
}

/* §8.7, bit 4: the transmitter's bytes come back; a full FIFO overruns. */
static void uart_receive_looped(struct vmrun_uart *u, uint8_t byte)
{
    if (u->input_count >= (u->fifo ? UART_FIFO : 1))
        u->overrun = 1;
    else
        u->input[(u->input_start + u->input_count++) % VMRUN_UART_INPUT] = byte;
}

/* Bytes that the driver wrote to the transmitter, one after the other. */
static void uart_transmit(struct vmrun_uart *u, const uint8_t *bytes, uint32_t count)
{
    if (u->mcr & MCR_LOOP) {
        for (uint32_t i = 0; i < count; i++)
            uart_receive_looped(u, bytes[i]);
    } else {
        outlet_put(&u->out, bytes, count);
        uart_offer(u, memchr(bytes, '\n', count) != NULL);
    }
    u->thre_pending = 1;
    uart_update(u);
}

/* Hand over what KVM has put by; returns how many bytes that were. */
static uint32_t uart_drain(struct vmrun_uart *u)
{
    uint8_t bytes[256];
    uint32_t all = 0, count;
    do {
        for (count = 0; count < sizeof bytes && uart_next(u->ring, &bytes[count]); count++) {}
        all += count;
        if (count && u->lcr & LCR_DLAB)
            u->divisor = (u->divisor & 0xff00) | bytes[count - 1];
        else if (count)
            uart_transmit(u, bytes, count);
    } while (count == sizeof bytes);
    return all;
}

static int uart_coalesce(struct vmrun_uart *u, int on)
{
    struct kvm_coalesced_mmio_zone zone = {.addr = u->port, .size = 1, .pio = 1};
    return vmrun_ioctl(u->vm, on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO, &zone);
}

/* A byte has cost an exit. */
static void uart_consider(struct vmrun_uart *u)
{
    uint64_t now = vmrun_now();
    u->writes = now - u->written_at < UART_PAUSE_NS ? u->writes + 1 : 0;
    u->written_at = now;
    if (u->writes >= UART_BEGIN && u->ring && uart_coalesce(u, 1) == 0) {
        u->coalescing = 1;
        u->idle_looks = 0;
        uart_plan(u);
    }
}

static void uart_look(struct vmrun_uart *u)
{
    u->idle_looks = uart_drain(u) ? 0 : u->idle_looks + 1;
    if (u->idle_looks < UART_IDLE_LOOKS)
        return;
    uart_coalesce(u, 0);
    u->coalescing = 0;
    u->writes = 0;
    uart_drain(u); /* what came between the last look and the end of it */
}

static void uart_tell_room(struct vmrun_uart *u)
{
    if (u->starved && !u->input_count && !(u->mcr & MCR_LOOP)) {
        u->starved = 0;
        uart_ring(u->room);
    }
}

static uint32_t uart_take_input(struct vmrun_uart *u)
{
    if (!u->input_count)
        return 0;
    uint8_t byte = u->input[u->input_start];
    u->input_start = (u->input_start + 1) % VMRUN_UART_INPUT;
    u->input_count--;
    uart_update(u);
    uart_tell_room(u);
    return byte;
}

static uint32_t uart_read_iir(struct vmrun_uart *u)
{
    uint32_t cause = uart_cause(u);
    if (cause == IIR_THRE) { /* §8.6: reading IIR withdraws a THRE interrupt that it shows */
        u->thre_pending = 0;
        uart_update(u);
    }
    return cause | (u->fifo ? IIR_FIFO : 0);
}

static uint32_t uart_read_lsr(struct vmrun_uart *u)
{
    uint32_t value = LSR_EMPTY | (u->input_count ? LSR_DATA : 0) | (u->overrun ? LSR_OVERRUN : 0);
    if (u->overrun) {
        u->overrun = 0;
        uart_update(u);
    }
    return value;
}

static uint32_t uart_read_msr(struct vmrun_uart *u)
{
    uint32_t value = u->msr | u->msr_delta;
    if (u->msr_delta) {
        u->msr_delta = 0;
        uart_update(u);
    }
    return value;
}

static uint32_t uart_read(struct vmrun_uart *u, uint32_t offset)
{
    int dlab = u->lcr & LCR_DLAB;
    switch (offset) {
    case 0:
        return dlab ? u->divisor & 0xff : uart_take_input(u);
    case 1:
        return dlab ? u->divisor >> 8 : u->ier;
    case 2:
        return uart_read_iir(u);
    case 3:
        return u->lcr;
    case 4:
        return u->mcr;
    case 5:
        return uart_read_lsr(u);
    case 6:
        return uart_read_msr(u);
    default:
        return u->scratch;
    }
}

static void uart_write_fcr(struct vmrun_uart *u, uint8_t value)
{
    uint8_t fifo = value & FCR_ENABLE;
    int cleared = fifo != u->fifo || value & FCR_CLEAR_RX; /* §8.5: toggling bit 0 clears, too */
    if (cleared) { /* what waits behind the FIFO is still on its way */
        uint32_t most = u->fifo ? UART_FIFO : 1, gone = u->input_count < most ? u->input_count : most;
        u->input_start = (u->input_start + gone) % VMRUN_UART_INPUT;
        u->input_count -= gone;
    }
    u->fifo = fifo;
    u->trigger = value >> 6;
    uart_update(u);
    if (cleared)
        uart_tell_room(u);
}

/* Loopback puts the four outputs on the four inputs: DTR on DSR, RTS on CTS, OUT1 on RI, OUT2 on DCD. */
static uint8_t uart_lines(uint8_t mcr)
{
    if (!(mcr & MCR_LOOP))
        return MSR_CONNECTED;
    return (mcr & MCR_DTR ? MSR_DSR : 0) | (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_OUT1 ? MSR_RI : 0) |
           (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void uart_write_mcr(struct vmrun_uart *u, uint8_t value)
{
    u->mcr = value & 0x1f;
    uint8_t lines = uart_lines(u->mcr), changed = lines ^ u->msr;
    changed &= ~(lines & MSR_RI); /* §8.8: only the trailing edge of RI counts */
    u->msr = lines;
    u->msr_delta |= changed >> 4;
    uart_update(u);
    uart_tell_room(u);
}

static void uart_write_ier(struct vmrun_uart *u, uint8_t value)
{
    if (value & ~u->ier & IER_THRE)
        u->thre_pending = 1; /* the transmitter is empty, and switching on says so */
    u->ier = value & 0xf;
    uart_update(u);
}

static void uart_write(struct vmrun_uart *u, uint32_t offset, uint8_t value)
{
    int dlab = u->lcr & LCR_DLAB;
    switch (offset) {
    case 0:
        if (dlab)
            u->divisor = (u->divisor & 0xff00) | value;
        else
            uart_transmit(u, &value, 1);
        break;
    case 1:
        if (dlab)
            u->divisor = (u->divisor & 0xff) | value << 8;
        else
            uart_write_ier(u, value);
        break;
    case 2:
        uart_write_fcr(u, value);
        break;
    case 3:
        u->lcr = value;
        break;
    case 4:
        uart_write_mcr(u, value);
        break;
    case 7:
        u->scratch = value;
    }
}

/* A read by the guest, from any CPU's thread.  What KVM has put by changes nothing that LSR or MSR tell (but in
 * loopback, where nothing is put by for long), and a driver reads them before every byte. */
static uint32_t vmrun_uart_read(struct vmrun_uart *u, uint32_t offset)
{
    pthread_mutex_lock(&u->lock);
    if (u->coalescing && (offset < 5 || u->mcr & MCR_LOOP))
        uart_drain(u);
    uint32_t value = uart_read(u, offset);
    pthread_mutex_unlock(&u->lock);
    return value;
}

/* A write by the guest, from any CPU's thread. */
static void vmrun_uart_write(struct vmrun_uart *u, uint32_t offset, uint32_t value)
{
    pthread_mutex_lock(&u->lock);
    if (u->coalescing)
        uart_drain(u);
    else if (!offset && u->ring)
        uart_consider(u);
    uart_write(u, offset, value);
    pthread_mutex_unlock(&u->lock);
}

/* Input from the line: how many bytes were taken.  In loopback the line is cut off. */
static uint32_t vmrun_uart_feed(struct vmrun_uart *u, const uint8_t *bytes, uint32_t count)
{
    pthread_mutex_lock(&u->lock);
    uint32_t room = u->mcr & MCR_LOOP ? 0 : VMRUN_UART_INPUT - u->input_count, taken = count < room ? count : room;
    for (uint32_t i = 0; i < taken; i++)
        u->input[(u->input_start + u->input_count++) % VMRUN_UART_INPUT] = bytes[i];
    u->starved = taken < count;
    if (taken)
        uart_update(u);
    pthread_mutex_unlock(&u->lock);
    return taken;
}

/* The look that was asked for by ``attention``, ``linger_ns`` later; 1: come again after as long. */
static int vmrun_uart_look(struct vmrun_uart *u)
{
    pthread_mutex_lock(&u->lock);
    u->planned = 1; /* so that nothing of this rings for what follows anyway */
    if (u->coalescing)
        uart_look(u);
    u->out.retry_at = 0;
    uart_send(u);
    int again = u->planned = u->coalescing || u->stalled;
    pthread_mutex_unlock(&u->lock);
    return again;
}

/* The guest has halted: its last words go out, to a reader who takes them within ``patience_ms``. */
static void vmrun_uart_flush(struct vmrun_uart *u, int patience_ms)
{
    pthread_mutex_lock(&u->lock);
    if (u->coalescing)
        uart_drain(u);
    outlet_flush(&u->out, patience_ms);
    pthread_mutex_unlock(&u->lock);
}

static struct vmrun_uart *vmrun_uart_new(int sink, int attention, int room)
{
    struct vmrun_uart *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    pthread_mutex_init(&u->lock, NULL);
    u->out.sink = sink;
    u->out.wake = -1;
    u->attention = attention;
    u->room = room;
    u->vm = -1;
    u->divisor = 12; /* 9600 baud */
    u->msr = MSR_CONNECTED;
    return u;
}

static void vmrun_uart_free(struct vmrun_uart *u)
{
    pthread_mutex_destroy(&u->lock);
    free(u);
}
