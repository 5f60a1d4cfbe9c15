/* The native part of vmrun: moves bytes, decides nothing. */
#ifndef VMRUN_H
#define VMRUN_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
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
    struct kvm_coalesced_mmio_ring *ring;
    uint32_t done, count;    /* elements of a string instruction */
    int waiting;             /* an access was given to Python */
    volatile int kicked;
    volatile int tid;
};

struct vmrun_route { uint32_t gsi, type, a, b, data; };

#endif
