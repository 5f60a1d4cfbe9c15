/* The native part of vmrun: what happens too often for Python, or has no call there. */
#ifndef VMRUN_H
#define VMRUN_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <linux/vhost.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum vmrun_stop {
    VMRUN_PIO, VMRUN_MMIO, VMRUN_KICKED, VMRUN_HLT, VMRUN_SHUTDOWN, VMRUN_FAIL_ENTRY,
    VMRUN_INTERNAL_ERROR, VMRUN_SYSTEM_EVENT, VMRUN_OTHER, VMRUN_ERRNO
};

struct vmrun_counters { uint64_t exits, pio, mmio, quiet, other; };

struct vmrun_vcpu {
    int fd;
    uint8_t *claimed_ports;  /* one bit a port: set means that Python decides */
    struct vmrun_uart *uart; /* served without Python; NULL: there is none */
    uint64_t address;        /* of the access that waits for Python */
    uint64_t value;          /* written by the guest, or to be read by it */
    uint32_t size;
    uint32_t write;
    uint32_t reason;         /* kvm_run.exit_reason as it was */
    uint64_t detail[4];      /* shutdown/error facts, see vcpu.c */
    struct vmrun_counters counters;
    /* private */
    struct kvm_run *run;
    uint64_t run_size;
    uint32_t done, count;    /* elements of a string instruction */
    int waiting;             /* an access was given to Python */
    volatile int tid;
};

struct vmrun_ram { uint64_t start, size; uint8_t *host; };

struct vmrun_desc;
struct vmrun_ring {
    const struct vmrun_ram *ram;
    uint32_t regions;
    uint16_t size, most;                     /* ``most``: what its owner keeps something for each of; 0: nothing */
    uint8_t indirect, event_idx;             /* negotiated features */
    uint16_t last_avail, used_idx;
    struct vmrun_desc *desc;
    uint16_t *avail, *used;
    uint8_t in_flight[1024];
};

struct vmrun_uring {
    int fd;
    unsigned unsubmitted, sq_mask, cq_mask;
    unsigned *sq_tail, *sq_array, *cq_head, *cq_tail;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    void *ring;
    size_t ring_size, sqes_size;
};

struct vmrun_spin { uint64_t most_ns, window_ns, since; };

struct vmrun_overlay { uint8_t *present; pthread_mutex_t lock; };

struct vmrun_blk {
    struct vmrun_ring ring;
    int fd, overlay;                         /* the image; its overlay or -1 */
    int kick, call, stop, notice;            /* eventfds: doorbell, interrupt, end, errors happened */
    uint64_t capacity;
    uint32_t readonly, discards, write_through;
    uint32_t in_memory;                      /* a read of the image never waits for a disk */
    uint32_t align;                          /* of each part of a request to an O_DIRECT image; else 0 */
    uint64_t slow_ns;                        /* what a buffered write may take, beside what its bytes take */
    char serial[20];
    uint32_t errors;
    int last_error;
    int *flush_failed;                       /* one for all queues of a disk: the kernel tells of a lost write once */
    /* private */
    struct vmrun_spin spin;
    struct vmrun_uring uring;
    struct vmrun_blk_request *requests;
    struct vmrun_chain *chain;
    uint8_t *scratch, *present;
    pthread_mutex_t *overlay_lock;
    uint64_t slow_until;
    int reads_may_wait;                      /* and nobody tells beforehand */
    uint32_t pending;
    int stopping, watching_stop, armed;      /* the last two: a poll of stop, of kick is under way */
};

#define VMRUN_OUTLET 65536u

struct vmrun_outlet {
    int sink;                                /* non-blocking; the supervisor has the other end */
    int wake;                                /* an eventfd that cuts waiting for it short; -1: nothing does */
    int patience_ms;                         /* what a driver waits for a reader that does not keep up */
    uint64_t dropped;                        /* bytes that nobody took */
    uint32_t count;                          /* bytes that wait */
    /* private */
    uint32_t start;
    uint64_t retry_at;                       /* the sink may have room then */
    int patience_left;
    uint8_t bytes[VMRUN_OUTLET];             /* a ring */
};

struct vmrun_console {
    struct vmrun_ring ring;
    struct vmrun_outlet out;                 /* woken for a look at ``stopping`` and ``said`` */
    int kick, call;                          /* eventfds: doorbell, interrupt */
    uint64_t spin_ns;                        /* look at the ring for so long before sleeping */
    int stopping;
    /* private */
    struct vmrun_chain *chain;
    uint64_t since;                          /* the oldest of what waits came then */
    uint16_t told;                           /* used index at the last interrupt */
    uint8_t outside[64];                     /* bytes beside the queue: a ring, written by one other thread */
    uint32_t said, heard;
};

#define VMRUN_UART_INPUT 1024u               /* bytes: more than the FIFO, so that a paste is no ping-pong of 16 */

struct vmrun_uart {
    struct vmrun_outlet out;
    int vm;                                  /* hears of the interrupt and coalesces; -1: nobody does */
    uint32_t irq, port;                      /* its GSI, its first I/O port */
    uint64_t linger_ns;                      /* what output without a newline, or after much of it, waits */
    uint32_t asserted, coalescing;
    struct kvm_coalesced_mmio_ring *ring;    /* NULL: KVM has none */
    /* private */
    pthread_mutex_t lock;
    int attention, room;                     /* eventfds: look after linger_ns; there is room for input again */
    int planned, stalled, starved;           /* a look was asked for; the sink is full; input was refused */
    uint64_t sent_at, written_at;
    uint32_t writes, idle_looks;
    uint8_t ier, lcr, mcr, scratch, fifo, trigger, overrun, thre_pending, msr, msr_delta;
    uint16_t divisor;
    uint32_t input_start, input_count;
    uint8_t input[VMRUN_UART_INPUT];
};
static uint32_t vmrun_uart_read(struct vmrun_uart *u, uint32_t offset);
static void vmrun_uart_write(struct vmrun_uart *u, uint32_t offset, uint32_t value);

struct vmrun_route { uint32_t gsi, type, a, b, data; };

#endif
